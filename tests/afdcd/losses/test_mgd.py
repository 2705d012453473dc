from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import D, maps
from contracts.guess import naive_guess
from contracts.method import BATCH, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.losses.method import Context, Target
from afdcd.losses.mgd import MGD
from afdcd.models.output import ChannelSpec, SegOutput


def build(
    student: int, teacher: int, mask_ratio: float, reduction: Any = "sum", bottleneck: int | None = None
) -> MGD:
    torch.manual_seed(student + teacher)
    specs = [ChannelSpec((2, width), 1, 3) for width in (student, teacher)]
    return MGD(Context(*specs, 255, None), mask_ratio=mask_ratio, bottleneck=bottleneck, reduction=reduction)


def of_features(features: Tensor) -> SegOutput:
    return SegOutput(None, (features[:, :1], features), None, None)


def naive(method: MGD, student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    """The guess by loops, and all its squared errors added up."""
    guess = naive_guess(dict(method.generator.named_parameters()), student, keys, method.mask_ratio)
    total = torch.zeros((), dtype=guess.dtype)
    for g, t in zip(guess.flatten(), teacher.flatten(), strict=True):
        total = total + (g - t) ** 2
    return total / (len(guess) if method.reduction == "sum" else guess.numel())


@pytest.mark.parametrize(
    ("student", "teacher", "batch", "size", "ratio", "reduction", "bottleneck"),
    [
        (3, 5, 2, (3, 5), 0.75, "sum", None),
        (4, 4, 1, (5, 3), 0.5, "sum", None),
        (5, 2, 3, (1, 4), 0.25, "mean", None),
        (2, 3, 2, (4, 1), 0.0, "sum", None),
        (1, 6, 1, (3, 3), 1.0, "mean", None),
        (3, 4, 2, (1, 1), 0.6, "sum", None),
        (4, 6, 2, (3, 5), 0.75, "sum", 3),
        (3, 6, 1, (4, 3), 0.5, "mean", 3),
    ],
)
def test_equals_the_loops(
    student: int,
    teacher: int,
    batch: int,
    size: tuple[int, int],
    ratio: float,
    reduction: Any,
    bottleneck: int | None,
) -> None:
    method = build(student, teacher, ratio, reduction, bottleneck).to(D)
    assert method.generator.second.in_channels == (bottleneck or teacher)
    given, wanted = maps((batch, student, *size), (batch, teacher, *size), seed=student)
    keys = torch.arange(7, 7 + batch)

    def ours(s: Tensor, t: Tensor) -> Tensor:
        term: Tensor = method.to(s.dtype)(of_features(s), of_features(t), Target(torch.zeros(0), keys))[
            "masked_generation"
        ]
        return term

    def loops(s: Tensor, t: Tensor) -> Tensor:
        return naive(method, s, t, keys)

    expected = loops(given.requires_grad_(), wanted)
    expected_gradients = torch.autograd.grad(expected, [given, *method.parameters()])
    for dtype, tolerance in ((D, 1e-10), (torch.float32, 1e-5)):
        narrow = given.detach().to(dtype).requires_grad_()
        value = ours(narrow, wanted.to(dtype))
        assert value.dtype == dtype and value.item() == pytest.approx(expected.item(), rel=tolerance)
        gradients = torch.autograd.grad(value, [narrow, *method.parameters()])
        for one, other in zip(gradients, expected_gradients, strict=True):
            largest = other.abs().max().item()
            torch.testing.assert_close(one.to(D), other, rtol=tolerance, atol=tolerance * (largest + 1e-4))


def test_gradcheck_and_no_gradient_to_the_teacher() -> None:
    method = build(2, 3, 0.5).to(D)
    student = torch.randn(1, 2, 3, 3, dtype=D, requires_grad=True)
    teacher = torch.randn(1, 3, 3, 3, dtype=D, requires_grad=True)
    here = Target(torch.zeros(0), torch.tensor([3]))

    def loss(x: Tensor) -> Tensor:
        value: Tensor = method(of_features(x), of_features(teacher), here)["masked_generation"]
        return value

    assert torch.autograd.gradcheck(lambda x, *_: loss(x), (student, *method.parameters()))
    loss(student).backward()
    assert teacher.grad is None and all(p.grad is not None for p in method.parameters())


def test_all_dropped_leaves_nothing_of_the_student() -> None:
    wanted, here = of_features(torch.randn(1, 3, 4, 4)), Target(torch.zeros(0), torch.tensor([5]))
    for ratio, same in ((1.0, True), (0.5, False)):
        method = build(2, 3, ratio)
        values = [method(of_features(torch.randn(1, 2, 4, 4)), wanted, here) for _ in range(2)]
        assert values[0]["masked_generation"].equal(values[1]["masked_generation"]) == same


def test_a_generator_of_zeros_costs_the_teachers_square() -> None:
    method = build(2, 3, 0.75)
    for parameter in method.parameters():
        torch.nn.init.zeros_(parameter)
    teacher = torch.randn(4, 3, 5, 3)
    here = Target(torch.zeros(0), torch.arange(4))
    value = method(of_features(torch.randn(4, 2, 5, 3)), of_features(teacher), here)["masked_generation"]
    assert value.item() == pytest.approx(teacher.square().sum().item() / 4)


class TestContract(MethodContract):
    name: ClassVar[str] = "mgd"
    options: ClassVar[dict[str, Any]] = {"mask_ratio": 0.5, "bottleneck": None, "reduction": "sum"}
    falling: ClassVar[tuple[str, ...]] = ("masked_generation",)

    def test_masks_follow_the_keys(self) -> None:
        objective, student, teacher = self.build(TEACHER), output(TEACHER, 1), output(TEACHER, 2)
        first = objective(student, teacher, target())["masked_generation"]
        moved = target()._replace(keys=torch.arange(50, 50 + BATCH))
        assert not first.equal(objective(student, teacher, moved)["masked_generation"])


class TestMeanContract(TestContract):
    options: ClassVar[dict[str, Any]] = {"mask_ratio": 0.75, "bottleneck": 3, "reduction": "mean"}
