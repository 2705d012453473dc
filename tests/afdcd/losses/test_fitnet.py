from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import assert_equal_forms, assert_gradcheck, assert_halves_average, maps
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.fitnet import feature_mse


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    batch, channels, height, width = student.shape
    total = torch.zeros((), dtype=student.dtype)
    for b in range(batch):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    total = total + (student[b, c, y, x] - teacher[b, c, y, x]) ** 2
    return total / (batch * channels * height * width)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (3, 2, 7, 1), (1, 5, 3, 3), (4, 4, 5, 2)])
@pytest.mark.parametrize("relu", [False, True])
def test_equals_the_loops(shape: tuple[int, ...], relu: bool) -> None:
    assert_equal_forms(feature_mse, naive, *maps(shape, shape, seed=1, relu=relu))


def test_near_the_teacher_no_digits_are_lost() -> None:
    (teacher,) = maps((2, 3, 5, 3), scale=100.0)
    student = (teacher.float() * (1 + 2**-20)).double()
    expected = naive(student, teacher.float().double()).item()
    assert feature_mse(student.float(), teacher.float()).item() == pytest.approx(expected, rel=1e-5)


def test_hand_values() -> None:
    ones = torch.ones(2, 3, 4, 5)
    assert feature_mse(3 * ones, ones).item() == 4
    # A mean over all numbers: neither batch, channels nor size change it.
    for dim in range(4):
        assert feature_mse(torch.cat([3 * ones] * 2, dim), torch.cat([ones] * 2, dim)).item() == 4


def test_gradient_and_halves() -> None:
    student, teacher = maps((2, 3, 2, 3), (2, 3, 2, 3))
    assert_gradcheck(feature_mse, student, teacher)
    assert_halves_average(feature_mse, student, teacher)


def test_half_precision_is_compared_wide() -> None:
    student, teacher = (x.bfloat16() for x in maps((2, 3, 5, 7), (2, 3, 5, 7)))
    with torch.autocast("cpu", torch.bfloat16):
        value = feature_mse(student, teacher)
    assert value.dtype == torch.float32
    assert value.equal(feature_mse(student.float(), teacher.float()))


def test_other_channels_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"feature MSE: .*1, 3, 2, 2\).*1, 4, 2, 2\); they must agree in chan"
    ):
        feature_mse(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2))


class TestContract(MethodContract):
    name: ClassVar[str] = "fitnet"
    options: ClassVar[dict[str, Any]] = {}
    falling: ClassVar[tuple[str, ...]] = ("feature_mse",)

    def test_the_adapter_has_no_bias_and_maps_the_head(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        (weight,) = objective.parameters()
        assert weight.shape == (TEACHER.head_features, STUDENT.head_features, 1, 1)
        assert student.head_features is not None and teacher.head_features is not None
        adapted = torch.einsum("dc,bchw->bdhw", weight[..., 0, 0], student.head_features)
        expected = (adapted - teacher.head_features).square().mean()
        torch.testing.assert_close(objective(student, teacher, target())["feature_mse"], expected)
