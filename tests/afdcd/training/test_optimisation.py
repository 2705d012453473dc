from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from afdcd.losses.method import Adam, ParamGroup
from afdcd.native import kernels
from afdcd.training import optimisation
from afdcd.training.checkpoint import load_optimiser, optimiser_tensors
from afdcd.training.optimisation import build_optimiser, clip_adapters, poly_lr, set_lr, step


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32))


def test_poly_without_warmup_is_the_released_schedule() -> None:
    config = tiny.schedule({"lr": 0.02, "warmup_iterations": 0}).optimiser
    assert poly_lr(config, 0, 40000) == 0.02
    assert poly_lr(config, 20000, 40000) == pytest.approx(0.02 * 0.5**0.9)
    assert poly_lr(config, 39999, 40000) == pytest.approx(0.02 * (1 / 40000) ** 0.9)


def test_warmup_is_linear_and_ends_on_the_curve() -> None:
    config = tiny.schedule({"lr": 1.0, "warmup_iterations": 4, "poly_power": 0.0}).optimiser
    assert [poly_lr(config, it, 10) for it in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_groups_keep_their_factor() -> None:
    config = tiny.schedule({"name": "sgd"}).optimiser
    groups = [ParamGroup([parameter(1)]), ParamGroup([parameter(1)], lr_factor=10.0)]
    optimiser = build_optimiser(config, groups)
    set_lr(optimiser, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.5, 5.0]


def test_sgd_decays_everything_and_uses_momentum() -> None:
    config = tiny.schedule({"name": "sgd", "weight_decay": 0.1, "momentum": 0.5}).optimiser
    weight = parameter(2.0)
    optimiser = build_optimiser(config, [ParamGroup([weight])])
    set_lr(optimiser, 1.0)
    weight.grad = torch.tensor([1.0])
    optimiser.step()
    assert weight.item() == pytest.approx(2 - (1 + 0.2))
    optimiser.step()
    assert weight.item() == pytest.approx(0.8 - (0.5 * 1.2 + 1 + 0.08))


def test_frozen_parameters_are_left_out() -> None:
    frozen = parameter(1.0).requires_grad_(False)
    optimiser = build_optimiser(tiny.schedule().optimiser, [ParamGroup([frozen, parameter(1.0)])])
    assert len(optimiser.param_groups[0]["params"]) == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_adam_of_ones_own_stands_beside_the_optimiser(name: str) -> None:
    config = tiny.schedule({"name": name, "lr": 0.1, "weight_decay": 0.1}).optimiser
    pair = nn.ParameterDict({"student": parameter(1, 2), "opponent": parameter(3, 4)})
    alone = nn.ParameterDict({"student": parameter(1, 2)})
    twin = parameter(3, 4)
    own = Adam(lr=0.004, betas=(0.8, 0.99))
    both = build_optimiser(config, [ParamGroup([pair["opponent"]], adam=own), ParamGroup([pair["student"]])])
    single = build_optimiser(config, [ParamGroup([alone["student"]])])
    adam = torch.optim.Adam([twin], 0.004, betas=(0.8, 0.99))
    for iteration in range(6):
        if iteration == 3:  # what a checkpoint holds goes into fresh optimisers
            saved = optimiser_tensors(both, pair)
            groups = [ParamGroup([pair["opponent"]], adam=own), ParamGroup([pair["student"]])]
            both = build_optimiser(config, groups)
            load_optimiser(both, pair, {key: value.clone() for key, value in saved.items()})
        rate = config.lr * (1 - iteration / 10)
        set_lr(both, rate)
        set_lr(single, rate)
        adam.param_groups[0]["lr"] = 0.004 * (1 - iteration / 10)
        for weight in (*pair.values(), *alone.values(), twin):
            weight.grad = torch.tensor([1.0, -2.0 * iteration])
        for optimiser in (both, single):
            step(optimiser)
        adam.step()
    torch.testing.assert_close(pair["student"], alone["student"], rtol=0, atol=0)
    torch.testing.assert_close(pair["opponent"], twin)
    both.zero_grad()
    assert all(weight.grad is None for weight in pair.values())


def test_the_clip_touches_adapters_together_and_nothing_else() -> None:
    student, first, second = parameter(0.0), parameter(0.0), parameter(0.0)
    student.grad, first.grad, second.grad = (torch.tensor([v]) for v in (100.0, 30.0, 40.0))
    clip_adapters([first, second], 5.0)
    assert student.grad.item() == 100
    assert [first.grad.item(), second.grad.item()] == pytest.approx([3, 4], rel=1e-5)


def test_no_clip_without_a_limit_or_below_it() -> None:
    adapter = parameter(0.0)
    adapter.grad = torch.tensor([3.0])
    clip_adapters([adapter], None)
    clip_adapters([adapter], 5.0)
    assert adapter.grad.item() == 3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_step_does_not_depend_on_how_memory_is_laid_out(name: str, layout: torch.memory_format) -> None:
    """Gradients in either layout; parameters, gradients and state come back as they were."""
    config = tiny.schedule({"name": name}).optimiser
    torch.manual_seed(0)
    start, plain = torch.randn(6, 4, 3, 3), nn.Parameter(torch.empty(6, 4, 3, 3))
    plain.data = start.clone()
    ours = nn.Parameter(start.clone(memory_format=layout))
    optimisers = [build_optimiser(config, [ParamGroup([weight])]) for weight in (plain, ours)]
    for slopes in (torch.contiguous_format, torch.channels_last, layout):
        values = torch.randn(6, 4, 3, 3)
        plain.grad, given = values.clone(), values.clone(memory_format=slopes)
        ours.grad, address = given, ours.data_ptr()
        for optimiser in optimisers:
            step(optimiser)
        assert ours.equal(plain)
        assert ours.data_ptr() == address and ours.is_contiguous(memory_format=layout)
        assert ours.grad is not None and ours.grad.equal(values)
        assert (ours.grad.data_ptr() == given.data_ptr()) is (slopes == layout)
        state = [optimiser.state[weight] for optimiser, weight in zip(optimisers, (plain, ours), strict=True)]
        buffers = [key for key, value in state[0].items() if value.dim()]
        assert buffers and all(state[1][key].equal(state[0][key]) for key in buffers)
        assert all(state[1][key].is_contiguous(memory_format=layout) for key in buffers)


needs_kernels = pytest.mark.skipif(not kernels.has_kernels(), reason=kernels.loaded().reason)
SHAPES = [(1,), (), (7, 5, 3, 3), (64, 40, 1, 1), (9000,), (300, 100)]
UPDATES = 6


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that updates call."""
    names: list[str] = []
    monkeypatch.setattr(optimisation, "call", lambda *a: names.append(a[0]) or kernels.call(*a))
    return names


def trained(dtype: torch.dtype, slopes: list[list[Tensor]], decay: float = 0.1) -> list[nn.Parameter]:
    """Parameters of several layouts, two groups, after some updates; one of them misses every third."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    weights[2].data = weights[2].data.contiguous(memory_format=torch.channels_last)
    config = tiny.schedule({"name": "adamw", "weight_decay": decay, "momentum": 0.8}).optimiser
    groups = [ParamGroup(weights[:3]), ParamGroup(weights[3:], lr_factor=0.5)]
    optimiser = build_optimiser(config, groups)
    for update in range(UPDATES):
        for weight, slope in zip(weights, slopes[update], strict=True):
            weight.grad = slope.to(dtype, copy=True)
        if update % 3 == 2:
            weights[4].grad = None
        set_lr(optimiser, 0.01 / (1 + update))
        step(optimiser)
    assert [int(optimiser.state[weight]["step"]) for weight in weights] == [6, 6, 6, 6, 4, 6]
    return weights


def drawn() -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn(shape, dtype=torch.float64) * 10 for shape in SHAPES] for _ in range(UPDATES)]


def by_the_book(slopes: list[list[Tensor]], decay: float = 0.1) -> list[Tensor]:
    """AdamW as its paper has it, in float64, from the same start."""
    torch.manual_seed(0)
    weights = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    for place, weight in enumerate(weights):
        mean, square, count = torch.zeros_like(weight), torch.zeros_like(weight), 0
        for update in range(UPDATES):
            if place == 4 and update % 3 == 2:
                continue
            rate, count = 0.01 / (1 + update) * (1.0 if place < 3 else 0.5), count + 1
            slope = slopes[update][place]
            mean = 0.8 * mean + 0.2 * slope
            square = 0.999 * square + 0.001 * slope**2
            unbiased = (square / (1 - 0.999**count)).sqrt()
            weight.sub_(rate * (mean / (1 - 0.8**count) / (unbiased + 1e-8) + decay * weight))
    return weights


@needs_kernels
def test_all_updates_but_the_first_are_one_call_a_group(called: list[str]) -> None:
    for found, wanted in zip(trained(torch.float64, drawn()), by_the_book(drawn()), strict=True):
        torch.testing.assert_close(found.data, wanted, rtol=1e-11, atol=1e-11)
    assert called == ["adam"] * 2 * (UPDATES - 1)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_compiler_updates_are_torchs(
    monkeypatch: pytest.MonkeyPatch, called: list[str], decay: float
) -> None:
    """Its results differ by rounding."""
    kernel = trained(torch.float32, drawn(), decay)
    called.clear()
    monkeypatch.setattr(optimisation, "has_kernels", lambda: False)
    for found, wanted in zip(kernel, trained(torch.float32, drawn(), decay), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-7)
    assert not called


@needs_kernels
def test_bits_of_an_update_do_not_depend_on_threads() -> None:
    threads, results = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(trained(torch.float32, drawn()))
    torch.set_num_threads(threads)
    assert all(one.equal(other) for many in results for one, other in zip(many, results[0], strict=True))


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_seen_in_its_weight_alone(bad: float) -> None:
    slopes = drawn()
    slopes[3][5][7, 9] = bad
    weights = trained(torch.float32, slopes)
    spoilt = weights[5].isfinite().logical_not()
    assert spoilt[7, 9] and spoilt.sum() == 1 and all(weight.isfinite().all() for weight in weights[:5])


@needs_kernels
def test_state_of_another_layout_is_laid_out_anew(called: list[str]) -> None:
    found = []
    for other in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(7, 5, 3, 3).contiguous(memory_format=torch.channels_last))
        optimiser = build_optimiser(tiny.schedule({"name": "adamw"}).optimiser, [ParamGroup([weight])])
        for _ in range(3):
            weight.grad = torch.randn_like(weight)
            step(optimiser)
            if other:
                state = optimiser.state[weight]
                state |= {name: state[name].contiguous() for name in ("exp_avg", "exp_avg_sq")}
        found.append(weight)
    assert found[0].equal(found[1]) and called == ["adam"] * 4


@needs_kernels
def test_what_the_kernel_cannot_update_torch_does(called: list[str]) -> None:
    weights = [nn.Parameter(torch.ones(4, dtype=torch.bfloat16)), nn.Parameter(torch.ones(4, 6).mT)]
    for weight in weights:
        optimiser = build_optimiser(tiny.schedule({"name": "adamw"}).optimiser, [ParamGroup([weight])])
        for _ in range(2):
            weight.grad = torch.ones_like(weight)
            step(optimiser)
        assert (weight < 1).all()
    assert not called
