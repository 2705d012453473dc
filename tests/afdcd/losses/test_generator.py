from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from afdcd.losses import gathered
from afdcd.losses import generator as module
from afdcd.losses.generator import MaskedGenerator, random_keep_mask
from afdcd.losses.randomness import uniform
from afdcd.native.kernels import has_kernels

Form = Callable[[Tensor, Tensor], Tensor]


def plain(generator: MaskedGenerator, features: Tensor, keep: Tensor) -> Tensor:
    """The definition: align, mask, convolve, ReLU, convolve."""
    aligned = features if generator.align is None else generator.align(features)
    guess: Tensor = generator.second(F.relu(generator.first(aligned * keep)))
    return guess if generator.expand is None else generator.expand(guess)


def compare(
    generator: MaskedGenerator, features: Tensor, keep: Tensor, tolerance: float, form: Form | None = None
) -> None:
    """Hold value and all gradients of a form, the module's own choice by default, against the definition."""
    leaves = [features, *generator.parameters()]
    out = [(form or generator)(features, keep), plain(generator, features, keep)]
    torch.testing.assert_close(out[0], out[1], rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(out[0])
    gradients = [torch.autograd.grad((x * weights).sum(), leaves) for x in out]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("channels", [(3, 8), (8, 8), (8, 5), (1, 2), (7, 8), (3, 8, 5), (4, 6, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("second", ["small", "native", "torch"])
def test_equals_the_definition_with_all_gradients(
    monkeypatch: pytest.MonkeyPatch,
    channels: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    mask_ratio: float,
    second: str,
) -> None:
    if second != "small":  # what large maps alone would choose
        monkeypatch.setattr(module, "_is_large", lambda *_: True)
    if second == "torch":
        monkeypatch.setattr(module, "has_kernels", lambda: False)
    torch.manual_seed(sum(channels))
    generator = MaskedGenerator(*channels).to(dtype)
    features = torch.randn(2, channels[0], 5, 7, dtype=dtype, requires_grad=True)
    compare(generator, features, random_keep_mask(torch.tensor([1, 2]), features, mask_ratio), tolerance)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype", "with_kernels", "without"),
    [
        ((2, 128, 16, 16), torch.float32, "native", "second"),
        ((2, 128, 16, 16), torch.bfloat16, "native", "second"),
        ((2, 128, 16, 16), torch.float16, "second", "second"),
        ((2, 128, 15, 16), torch.bfloat16, "second", "second"),
        ((2, 127, 16, 16), torch.bfloat16, "second", "second"),
        ((2, 512, 32, 16), torch.float64, "native", "torch"),
        ((2, 512, 32, 16), torch.bfloat16, "native", "second"),
        ((2, 512, 31, 16), torch.float32, "native", "second"),
        ((2, 511, 32, 16), torch.float32, "native", "second"),
    ],
)
def test_the_second_convolution_takes_fewer_products_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    with_kernels: str,
    without: str,
    kernels: bool,
) -> None:
    generator, hidden = MaskedGenerator(1, 1), torch.zeros(1, dtype=dtype).expand(shape)
    monkeypatch.setattr(module, "has_kernels", lambda: kernels)
    monkeypatch.setattr(module, "native_winograd", lambda *_: "native")
    monkeypatch.setattr(module, "winograd", lambda *_: "torch")
    monkeypatch.setattr(generator.second, "forward", lambda _: "second")
    assert generator._second(hidden) == (with_kernels if kernels else without)


def test_a_map_on_a_gpu_is_left_to_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_kernels", lambda: True)
    with torch.device("meta"):  # any device but a CPU
        generator, hidden = MaskedGenerator(512, 512), torch.zeros(2, 512, 32, 32)
    assert generator._second(hidden).device.type == "meta"


@pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")
def test_autocast_reaches_the_fewer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator, features = MaskedGenerator(8, 16), torch.randn(2, 8, 5, 7)
    keep = random_keep_mask(torch.tensor([1, 2]), features, 0.5)
    leaves = list(generator.parameters())
    wide = generator(features, keep)
    slopes = torch.randn_like(wide)
    wanted = wide, *torch.autograd.grad(wide, leaves, slopes)
    monkeypatch.setattr(module, "_is_large", lambda *_: True)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = generator(features, keep)
    assert narrow.dtype == torch.bfloat16
    found = narrow, *torch.autograd.grad(narrow, leaves, slopes.bfloat16())
    assert [x.dtype for x in found[1:]] == [torch.float32] * len(leaves)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (12, 12)])
def test_ways_are_equal_on_small_and_large_maps_in_any_memory(cells: tuple[int, int]) -> None:
    torch.manual_seed(0)
    generator = MaskedGenerator(3, 8).double().to(memory_format=torch.channels_last)
    features = torch.randn(2, 3, *cells).double().contiguous(memory_format=torch.channels_last)
    keep = random_keep_mask(torch.tensor([1, 2]), features, 0.6)
    compare(generator, features.requires_grad_(), keep, 1e-12)
    assert generator.align is not None
    align = generator.align
    for form in (
        lambda x, k: generator.second(F.relu(generator._gathered(x, k))),
        lambda x, k: generator.second(F.relu(generator._folded(align, x, k))),
        lambda x, k: generator.second(F.relu(generator._folded(align, x, k, empty=4))),
    ):
        compare(generator, features, keep, 1e-12, form)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.8, 1.0])
def test_every_parameter_has_a_gradient_whatever_the_mask(mask_ratio: float) -> None:
    """A rank whose cells are all dropped must take part in the sum of gradients too."""
    generator = MaskedGenerator(3, 4)
    features = torch.randn(1, 3, 4, 4)
    generator(features, random_keep_mask(torch.tensor([1]), features, mask_ratio)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def test_work_is_in_proportion_to_the_kept_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def counted(left: Tensor, right: Tensor) -> Tensor:
        done.append(len(left) * right.numel())
        return left @ right.T

    monkeypatch.setattr(gathered, "product", counted)
    generator, features = MaskedGenerator(8, 8), torch.randn(1, 8, 10, 20)
    for kept in (10, 20):
        keep = (torch.arange(200) % (200 // kept) == 0).view(1, 1, 10, 20)
        generator(features, keep)
        assert sum(done) == kept * 9 * 8 * 8
        done.clear()


def test_the_fold_is_taken_where_it_saves_work() -> None:
    with torch.device("meta"):
        generator = MaskedGenerator(512, 2048)
    assert generator.align is not None
    assert [generator._folds(generator.align, cells) for cells in (256, 4096)] == [False, True]


@pytest.mark.parametrize("mask_ratio", [0.25, 0.75])
def test_folded_weights_are_composed_wide_under_autocast(mask_ratio: float) -> None:
    torch.manual_seed(0)
    generator = MaskedGenerator(4, 16)
    features = torch.randn(1, 4, 6, 6)
    keep = random_keep_mask(torch.tensor([1]), features, mask_ratio)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = generator(features, keep)
    wide = generator(features, keep)
    assert narrow.dtype == torch.bfloat16
    assert (narrow - wide).norm() / wide.norm() < 0.02


def test_equal_channels_have_no_align() -> None:
    assert {name for name, _ in MaskedGenerator(8, 8).named_children()} == {"first", "second"}


def test_released_generator_has_76_55_million_parameters() -> None:
    with torch.device("meta"):
        generator = MaskedGenerator(512, 2048)
    assert sum(p.numel() for p in generator.parameters()) == pytest.approx(76.55e6, rel=1e-4)


def test_a_bottleneck_of_512_channels_has_5_77_million_parameters() -> None:
    with torch.device("meta"):
        generator = MaskedGenerator(512, 2048, 512)
    assert {name for name, _ in generator.named_children()} == {"first", "second", "expand"}
    assert sum(p.numel() for p in generator.parameters()) == 2 * (9 * 512 + 1) * 512 + 513 * 2048


def test_mask_drops_its_share_per_cell_and_not_per_channel() -> None:
    features = torch.zeros(64, 3, 20, 25)
    keep = random_keep_mask(torch.arange(64), features, 0.75)
    assert keep.shape == (64, 1, 20, 25) and keep.dtype == torch.bool
    assert keep.float().mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 32_000) ** 0.5)
    assert random_keep_mask(torch.arange(64), features, 0.0).all()
    assert not random_keep_mask(torch.arange(64), features, 1.0).any()


def test_mask_is_a_function_of_each_samples_key_row_by_row() -> None:
    keys = torch.tensor([5, 900, -3])
    keep, drawn = random_keep_mask(keys, torch.zeros(3, 2, 4, 7), 0.4), uniform(keys, 28)
    for b in range(3):
        for y in range(4):
            for x in range(7):
                assert keep[b, 0, y, x] == (drawn[b, 7 * y + x] >= 0.4)


def test_mask_ratio_one_leaves_only_the_biases() -> None:
    generator, keys = MaskedGenerator(3, 4), torch.tensor([1])
    outs = []
    for features in (torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)):
        outs.append(generator(features, random_keep_mask(keys, features, 1.0)))
    assert outs[0].equal(outs[1])


def test_mask_ratio_zero_sees_every_cell() -> None:
    generator = MaskedGenerator(3, 4)
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    generator(features, random_keep_mask(torch.tensor([1]), features, 0.0)).sum().backward()
    assert (features.grad != 0).any(1).all()
