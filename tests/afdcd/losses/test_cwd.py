from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    assert_rounding_near,
    maps,
    permuted_pixels,
    vectors,
)
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.cwd import channel_wise


def naive(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    batch, channels, height, width = student.shape
    total = torch.zeros((), dtype=student.dtype)
    places = [(y, x) for y in range(height) for x in range(width)]
    for b in range(batch):
        for c in range(channels):
            s_powers = [(student[b, c, y, x] / temperature).exp() for y, x in places]
            t_powers = [(teacher[b, c, y, x] / temperature).exp() for y, x in places]
            for s, t in zip(s_powers, t_powers, strict=True):
                p, q = t / sum(t_powers), s / sum(s_powers)
                total = total + p * (p.log() - q.log())
    return temperature**2 / (batch * channels) * total


@pytest.mark.parametrize("shape", [(1, 2, 1, 3), (2, 3, 4, 5), (3, 2, 7, 1), (1, 5, 3, 3), (4, 1, 5, 2)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("relu", [False, True])
def test_equals_the_loops(shape: tuple[int, ...], temperature: float, relu: bool) -> None:
    assert_equal_forms(
        lambda s, t: channel_wise(s, t, temperature=temperature),
        lambda s, t: naive(s, t, temperature),
        *maps(shape, shape, seed=1, relu=relu, scale=3.0),
    )


def test_hand_values() -> None:
    student, teacher = vectors((0.0,), (0.0,)), vectors((4 * math.log(3),), (0.0,))
    assert channel_wise(student, teacher).item() == pytest.approx(2.092992575, abs=1e-9)
    plain = channel_wise(student, vectors((math.log(3),), (0.0,)), temperature=1.0)
    assert plain.item() == pytest.approx(0.130812036, abs=1e-9)
    assert channel_wise(teacher, teacher).item() == 0


def test_invariances() -> None:
    student, teacher = maps((2, 3, 4, 5), (2, 3, 4, 5))
    value = channel_wise(student, teacher)
    per_channel, per_pixel = maps((2, 3, 1, 1), (2, 1, 4, 5), seed=2)
    torch.testing.assert_close(channel_wise(student + per_channel, teacher - per_channel), value)
    torch.testing.assert_close(channel_wise(permuted_pixels(student), permuted_pixels(teacher)), value)
    assert not torch.isclose(channel_wise(student + per_pixel, teacher), value)
    assert not torch.isclose(channel_wise(student, permuted_pixels(teacher)), value)
    assert not torch.isclose(channel_wise(teacher, student), value, rtol=1e-3)
    assert not torch.isclose(channel_wise(student, teacher, temperature=2.0), value, rtol=1e-3)


def test_gradient_and_halves() -> None:
    student, teacher = maps((2, 3, 2, 3), (2, 3, 2, 3))
    assert_gradcheck(channel_wise, student, teacher)
    assert_halves_average(channel_wise, student, teacher)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(temperature: float, scale: float) -> None:
    assert_rounding_near(
        lambda s, t: channel_wise(s, t, temperature=temperature),
        lambda value, largest: 1e-7 * temperature * (largest + temperature * math.log(9 * 7)),
        (2, 3, 9, 7),
        scale=scale,
    )


def test_places_that_a_teacher_never_looks_at_are_finite() -> None:
    student, teacher = vectors((0.0,), (0.0,), (0.0,)), vectors((4e4,), (0.0,), (-4e4,))
    value = channel_wise(student.requires_grad_(), teacher)
    value.backward()
    assert value.item() == pytest.approx(16 * math.log(3)) and student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_impossible_temperature(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature must be above 0"):
        channel_wise(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), temperature=temperature)


class TestContract(MethodContract):
    name: ClassVar[str] = "cwd"
    options: ClassVar[dict[str, Any]] = {"temperature": 4.0}
    falling: ClassVar[tuple[str, ...]] = ("channel_logits", "channel_features")

    def test_the_temperature_reaches_both_terms(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        assert student.logits is not None and teacher.logits is not None
        before = self.build()(student, teacher, target())
        self.options = {"temperature": 2.0}
        found = self.build()(student, teacher, target())
        expected = channel_wise(student.logits, teacher.logits, temperature=2.0)
        assert found["channel_logits"].equal(expected)
        assert not torch.isclose(found["channel_features"], before["channel_features"], rtol=1e-3)

    def test_features_are_divided_by_the_students_channels(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        (weight,) = objective.parameters()
        assert student.head_features is not None and teacher.head_features is not None
        aligned = torch.einsum("dc,bchw->bdhw", weight[..., 0, 0], student.head_features)
        total = naive(aligned, teacher.head_features, 4.0) * TEACHER.head_features
        found = objective(student, teacher, target())["channel_features"]
        torch.testing.assert_close(found, total / STUDENT.head_features)
