from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    assert_rounding_near,
    maps,
    of_squared_cosines,
    orthogonal,
    vectors,
)
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.at import attention_transfer


def naive_attention(features: Tensor) -> list[Tensor]:
    """One image's unit attention, position by position."""
    channels, height, width = features.shape
    strength = [
        sum((features[c, y, x] ** 2 for c in range(channels)), torch.zeros(())) / channels
        for y in range(height)
        for x in range(width)
    ]
    length = sum(value**2 for value in strength) ** 0.5
    return [value / length for value in strength]


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    total, count = torch.zeros((), dtype=student.dtype), 0
    for s_image, t_image in zip(student, teacher, strict=True):
        for s, t in zip(naive_attention(s_image), naive_attention(t_image), strict=True):
            total, count = total + (s - t) ** 2, count + 1
    return total / count


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((1, 2, 1, 3), 2), ((2, 3, 4, 5), 6), ((3, 2, 7, 1), 1), ((1, 5, 3, 3), 5), ((4, 1, 5, 2), 3)],
)
@pytest.mark.parametrize("relu", [False, True])
def test_equals_the_loops(shape: tuple[int, ...], channels: int, relu: bool) -> None:
    other = (shape[0], channels, *shape[2:])
    assert_equal_forms(attention_transfer, naive, *maps(shape, other, seed=1, relu=relu))


def test_hand_values() -> None:
    first, second = vectors((2.0, 0.0), (0.0, 0.0)), vectors((0.0, 0.0), (0.0, 3.0))
    assert attention_transfer(first, second).item() == pytest.approx(1.0, abs=1e-12)
    assert attention_transfer(first, 7 * first).item() == pytest.approx(0.0, abs=1e-12)


def test_invariances() -> None:
    student, teacher = maps((2, 4, 3, 5), (2, 6, 3, 5))
    value = attention_transfer(student, teacher)
    for other in (student[:, [2, 0, 3, 1]], -student, orthogonal(4)(student), 3 * student):
        torch.testing.assert_close(attention_transfer(other, teacher), value)
    for other in (teacher[:, [2, 0, 5, 3, 1, 4]], -teacher, orthogonal(6)(teacher), 3 * teacher):
        torch.testing.assert_close(attention_transfer(student, other), value)
    per_pixel = maps((2, 1, 3, 5), seed=2)[0].exp()
    assert not torch.isclose(attention_transfer(student * per_pixel, teacher), value, rtol=1e-3)
    assert not torch.isclose(attention_transfer(student, teacher.flip(-1)), value, rtol=1e-3)
    # The mean over positions: twice the map with the same content has half the sum of squares per position.
    wide = attention_transfer(torch.cat([student] * 2, -1), torch.cat([teacher] * 2, -1))
    torch.testing.assert_close(wide, value / 2)


def test_gradient_and_halves() -> None:
    student, teacher = maps((2, 3, 2, 3), (2, 5, 2, 3))
    assert_gradcheck(attention_transfer, student, teacher)
    assert_halves_average(attention_transfer, student, teacher)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(scale: float) -> None:
    assert_rounding_near(attention_transfer, of_squared_cosines, (2, 5, 9, 7), scale=scale)


def test_an_empty_map_has_no_attention_and_finite_gradients() -> None:
    student, (teacher,) = torch.zeros(1, 3, 2, 2).requires_grad_(), maps((1, 3, 2, 2))
    value = attention_transfer(student, teacher.float())
    value.backward()
    assert value.item() == pytest.approx(0.25)
    assert student.grad is not None and student.grad.isfinite().all()


def test_other_grids_are_refused() -> None:
    with pytest.raises(UserError, match=r"attention transfer: .*1, 3, 2, 2\).*1, 3, 2, 4\).*output_stride"):
        attention_transfer(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 4))


class TestContract(MethodContract):
    name: ClassVar[str] = "at"
    options: ClassVar[dict[str, Any]] = {}
    falling: ClassVar[tuple[str, ...]] = ("attention",)

    def test_it_is_the_heads_attention(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        assert student.head_features is not None and teacher.head_features is not None
        expected = attention_transfer(student.head_features, teacher.head_features)
        assert self.build()(student, teacher, target())["attention"].equal(expected)
