from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.losses import cross_entropy as module
from afdcd.losses.cross_entropy import cross_entropy, upsampled
from afdcd.native.kernels import has_kernels, loaded

needs_kernels = pytest.mark.skipif(not has_kernels(), reason=loaded().reason)


@pytest.fixture(
    params=[pytest.param(True, id="native", marks=needs_kernels), pytest.param(False, id="torch")]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing it."""
    monkeypatch.setattr(module, "has_kernels", lambda: request.param)


def sample(map_: Tensor, y: float, x: float) -> float:
    """Bilinear interpolation of (h, w) at half-pixel coordinates, clamped at the border."""
    height, width = map_.shape
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = map_[top, left] * (1 - dx) + map_[top, right] * dx
    lower = map_[bottom, left] * (1 - dx) + map_[bottom, right] * dx
    return float(upper * (1 - dy) + lower * dy)


def naive(logits: Tensor, labels: Tensor, ignore_index: int, weights: list[float] | None) -> float:
    batch, classes, h, w = logits.shape
    _, height, width = labels.shape
    total = norm = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(labels[b, y, x])
                if label == ignore_index:
                    continue
                at = ((y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5)
                z = [sample(logits[b, k], *at) for k in range(classes)]
                share = 1.0 if weights is None else weights[label]
                total += share * (math.log(sum(math.exp(v - max(z)) for v in z)) + max(z) - z[label])
                norm += share
    return total / norm


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("ignore_index", [255, 0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 2, 1, 1), (3, 5)),
        ((2, 3, 2, 3), (5, 7)),
        ((1, 4, 3, 3), (6, 6)),
        ((2, 5, 4, 3), (4, 3)),
        ((3, 3, 2, 1), (9, 2)),
    ],
)
def test_equals_the_formula(shape: tuple[int, ...], size: tuple[int, int], weighted: bool, ignore_index: int):
    draw = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=draw, dtype=torch.uint8)
    labels[:, 0, 0] = ignore_index
    labels[:, -1, -1] = 1
    weights = [0.5 + k for k in range(shape[1])] if weighted else None
    tensor = None if weights is None else torch.tensor(weights)
    expected = naive(logits, labels, ignore_index, weights)
    wide = cross_entropy(logits, labels, ignore_index=ignore_index, class_weights=tensor)
    narrow = cross_entropy(logits.float(), labels, ignore_index=ignore_index, class_weights=tensor)
    assert wide.item() == pytest.approx(expected, rel=1e-10)
    assert narrow.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("way")
def test_weighted_mean_and_gradient_are_torchs() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4))
    weights = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)
    ours = cross_entropy(logits, labels, ignore_index=255, class_weights=weights)
    theirs = F.cross_entropy(logits, labels, weights)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("way")
def test_nothing_labelled_costs_zero_and_has_a_graph() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.full((1, 4, 4), 255)
    for weights in (None, torch.ones(3)):
        loss = cross_entropy(logits, labels, ignore_index=255, class_weights=weights)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0 and not gradient.any()


@pytest.mark.usefixtures("way")
def test_half_precision_is_added_up_wide() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.randint(0, 3, (2, 5, 4), generator=torch.Generator().manual_seed(1))
    found = cross_entropy(logits, labels, ignore_index=255, class_weights=None)
    assert found.dtype == torch.float32
    assert found.equal(cross_entropy(logits.float(), labels, ignore_index=255, class_weights=None))


@pytest.mark.usefixtures("way")
def test_autocast_does_not_narrow() -> None:
    logits = torch.randn(1, 3, 2, 2)
    labels = torch.randint(0, 3, (1, 4, 4))
    expected = cross_entropy(logits, labels, ignore_index=255, class_weights=None)
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_entropy(logits, labels, ignore_index=255, class_weights=None).equal(expected)


@pytest.mark.parametrize("size", [(7, 9), (24, 40), (3, 5), (2, 11)])
def test_products_upsample_as_the_operator_does(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    theirs = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    ours, weight = upsampled(logits, size), torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    found = [torch.autograd.grad((x * weight).sum(), logits)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*found)


CASES = [
    ((2, 3, 2, 3), (5, 7)),
    ((1, 9, 12, 24), (96, 192)),
    ((2, 5, 9, 7), (20, 33)),
    ((1, 2, 33, 17), (20, 21)),
    ((3, 4, 1, 1), (2, 40)),
    ((1, 19, 16, 16), (16, 16)),
]


def sides(
    monkeypatch: pytest.MonkeyPatch, logits: Tensor, labels: Tensor, weights: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient, natively and by torch."""
    found = []
    for native in (True, False):
        monkeypatch.setattr(module, "has_kernels", lambda native=native: native)
        given = logits.detach().clone().requires_grad_()
        loss = cross_entropy(given, labels, ignore_index=255, class_weights=weights)
        found.append((loss.detach(), torch.autograd.grad(3 * loss, given)[0]))
    return found


@needs_kernels
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "size"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_both_ways_are_equal(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    size: tuple[int, int],
    weighted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (6 * torch.randn(shape, generator=draw, dtype=torch.float64)).to(dtype)
    logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=draw, dtype=torch.uint8)
    labels[:, :1, ::2] = 255
    weights = torch.linspace(0.2, 3, shape[1]) if weighted else None
    native, other = sides(monkeypatch, logits, labels, weights)
    rounding = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(native[0], other[0], rtol=min(rounding, 3e-6), atol=0)
    torch.testing.assert_close(
        native[1], other[1], rtol=rounding, atol=rounding * float(other[1].abs().max())
    )


@needs_kernels
def test_large_and_small_logits_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sure pixel costs e^-20, an impossible one 200; far ones cost nothing.
    logits = torch.tensor([[[[10.0, -90.0, 0.0]], [[-10.0, 110.0, 0.0]]]])
    labels = torch.tensor([[[0, 0, 1]]])
    native, other = sides(monkeypatch, logits, labels, None)
    torch.testing.assert_close(native[0], other[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(native[1], other[1], rtol=1e-6, atol=1e-7)


@needs_kernels
def test_no_number_stays_no_number() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    logits[1, 2, 3, 3] = torch.nan
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    assert cross_entropy(logits, labels, ignore_index=255, class_weights=None).isnan()
    labels[1, 5:, 5:] = 255
    assert cross_entropy(logits, labels, ignore_index=255, class_weights=None).isfinite()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_logit_of_any_class_is_no_number(place: int, bad: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 3, 2, 2, dtype=dtype)
    logits[0, place] = bad
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert cross_entropy(logits, labels, ignore_index=255, class_weights=None).isnan()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("label", [3, 254, -1])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 2, 1] = label
    with pytest.raises(IndexError):
        cross_entropy(torch.zeros(1, 3, 2, 2), labels, ignore_index=255, class_weights=None)


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 16, 12, generator=draw, requires_grad=True)
    labels = torch.randint(0, 5, (2, 60, 50), generator=draw)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss = cross_entropy(logits, labels, ignore_index=255, class_weights=None)
            runs.append((loss, torch.autograd.grad(loss, logits)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(x.equal(y) for run in runs[1:] for x, y in zip(runs[0], run, strict=True))


@pytest.mark.usefixtures("way")
def test_a_second_backward_pass_finds_the_gradient_as_it_was() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(1, 8, 8, dtype=torch.long), ignore_index=255, class_weights=None)
    once, twice = (torch.autograd.grad(x * loss, logits, retain_graph=True)[0] for x in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 11, 23, 150, 171])
def test_equal_logits_cost_the_log_of_their_number(classes: int) -> None:
    labels = torch.zeros(1, 3, 5, dtype=torch.long)
    loss = cross_entropy(torch.full((1, classes, 2, 2), 9.0), labels, ignore_index=255, class_weights=None)
    assert loss.item() == pytest.approx(math.log(classes), rel=3e-7, abs=1e-7)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("logits", "labels", "weights"),
    [
        ((2, 3, 2, 2), (1, 4, 4), 3),
        ((2, 3, 2, 2), (4, 4), 3),
        ((3, 2, 2), (1, 4, 4), 3),
        ((1, 3, 2, 2), (1, 4, 4), 2),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(
    logits: tuple[int, ...], labels: tuple[int, ...], weights: int
) -> None:
    with pytest.raises(ValueError, match="cross-entropy"):
        cross_entropy(
            torch.zeros(logits),
            torch.zeros(labels, dtype=torch.long),
            ignore_index=255,
            class_weights=torch.ones(weights),
        )
