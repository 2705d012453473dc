from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.method import BATCH, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.losses.method import Context, Target
from afdcd.losses.mgd import MGD
from afdcd.losses.randomness import uniform
from afdcd.models.output import ChannelSpec, SegOutput

D = torch.float64


def build(student: int, teacher: int, mask_ratio: float, reduction: Any = "sum") -> MGD:
    torch.manual_seed(student + teacher)
    specs = [ChannelSpec((2, width), 1, 3) for width in (student, teacher)]
    return MGD(Context(*specs, 255, None), mask_ratio=mask_ratio, reduction=reduction)


def of_features(features: Tensor) -> SegOutput:
    return SegOutput(None, (features[:, :1], features), None, None)


def naive_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of odd width with zeros around, one output value after the other."""
    outputs, reach = weight.shape[0], weight.shape[-1] // 2
    batch, _, height, width = x.shape
    result = torch.zeros(batch, outputs, height, width, dtype=x.dtype)
    for b in range(batch):
        for y in range(height):
            for z in range(width):
                value = bias.clone()
                for dy in range(-reach, reach + 1):
                    for dz in range(-reach, reach + 1):
                        if 0 <= y + dy < height and 0 <= z + dz < width:
                            value = value + weight[:, :, dy + reach, dz + reach] @ x[b, :, y + dy, z + dz]
                result[b, :, y, z] = value
    return result


def naive(method: MGD, student: Tensor, teacher: Tensor, keys: Tensor) -> float:
    """Align, drop the cells whose number is below the ratio, convolve twice, add up all squared errors."""
    state = {name: value.detach().to(D) for name, value in method.generator.state_dict().items()}
    if "align.weight" in state:
        student = naive_convolution(student, state["align.weight"], state["align.bias"])
    batch, _, height, width = student.shape
    drawn = uniform(keys, height * width)
    dropped = student.clone()
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if drawn[b, y * width + x] < method.mask_ratio:
                    dropped[b, :, y, x] = 0
    hidden = naive_convolution(dropped, state["first.weight"], state["first.bias"]).clamp_min(0)
    guess = naive_convolution(hidden, state["second.weight"], state["second.bias"])
    total = sum(
        (g - t) ** 2 for g, t in zip(guess.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    )
    return total / (batch if method.reduction == "sum" else guess.numel())


@pytest.mark.parametrize(
    ("student", "teacher", "batch", "size", "ratio", "reduction"),
    [
        (3, 5, 2, (3, 5), 0.75, "sum"),
        (4, 4, 1, (5, 3), 0.5, "sum"),
        (5, 2, 3, (1, 4), 0.25, "mean"),
        (2, 3, 2, (4, 1), 0.0, "sum"),
        (1, 6, 1, (3, 3), 1.0, "mean"),
        (3, 4, 2, (1, 1), 0.6, "sum"),
    ],
)
def test_equals_the_loops(
    student: int, teacher: int, batch: int, size: tuple[int, int], ratio: float, reduction: Any
) -> None:
    method = build(student, teacher, ratio, reduction)
    given, wanted = torch.randn(batch, student, *size, dtype=D), torch.randn(batch, teacher, *size, dtype=D)
    keys = torch.arange(7, 7 + batch)
    expected = naive(method, given, wanted, keys)
    for dtype, tolerance in ((torch.float32, 1e-5), (D, 1e-10)):
        term = method.to(dtype)(
            of_features(given.to(dtype)), of_features(wanted.to(dtype)), Target(torch.zeros(0), keys)
        )
        assert term["masked_generation"].dtype == dtype
        assert term["masked_generation"].item() == pytest.approx(expected, rel=tolerance)


def test_gradcheck_and_no_gradient_to_the_teacher() -> None:
    method = build(2, 3, 0.5).to(D)
    student = torch.randn(1, 2, 3, 3, dtype=D, requires_grad=True)
    teacher = torch.randn(1, 3, 3, 3, dtype=D, requires_grad=True)
    here = Target(torch.zeros(0), torch.tensor([3]))

    def loss(x: Tensor) -> Tensor:
        value: Tensor = method(of_features(x), of_features(teacher), here)["masked_generation"]
        return value

    assert torch.autograd.gradcheck(loss, student)
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
    options: ClassVar[dict[str, Any]] = {"mask_ratio": 0.5, "reduction": "sum"}
    falling: ClassVar[tuple[str, ...]] = ("masked_generation",)

    def test_masks_follow_the_keys(self) -> None:
        objective, student, teacher = self.build(TEACHER), output(TEACHER, 1), output(TEACHER, 2)
        first = objective(student, teacher, target())["masked_generation"]
        moved = target()._replace(keys=torch.arange(50, 50 + BATCH))
        assert not first.equal(objective(student, teacher, moved)["masked_generation"])


class TestMeanContract(TestContract):
    options: ClassVar[dict[str, Any]] = {"mask_ratio": 0.75, "reduction": "mean"}
