from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import assert_equal_forms, assert_gradcheck, assert_halves_average, assert_rounding_near
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.kd import LogitKD, logit_kd
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec

SHAPES = [(1, 2, 1, 1), (2, 3, 4, 5), (3, 7, 1, 3), (1, 11, 5, 3), (2, 1, 2, 2), (4, 5, 3, 7)]


def naive(student: Tensor, teacher: Tensor, temperature: float, reduction: str, weights: Any) -> Tensor:
    """The formula, number by number."""
    batch, classes, height, width = student.shape
    total, norm = torch.zeros((), dtype=student.dtype), 0.0

    def softmax(logits: Tensor, t: float) -> list[Tensor]:
        powers = [((x - logits.max().detach()) / t).exp() for x in logits]
        return [p / sum(powers) for p in powers]

    for b in range(batch):
        for y in range(height):
            for x in range(width):
                s, t = student[b, :, y, x], teacher[b, :, y, x]
                p, q = softmax(t, temperature), softmax(s, temperature)
                kl = sum(p[k] * (p[k].log() - q[k].log()) for k in range(classes))
                belief = softmax(t, 1.0)
                share = 1.0 if weights is None else sum(belief[k].item() * weights[k] for k in range(classes))
                total, norm = total + share * kl, norm + share
    return temperature**2 * total / norm / (classes if reduction == "element" else 1)


def random_logits(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return (
        3 * torch.randn(shape, generator=draw, dtype=torch.float64),
        3 * torch.randn(shape, generator=draw, dtype=torch.float64),
    )


def single(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


@pytest.mark.parametrize("reduction", ["pixel", "element"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape: Any, weighted: bool, temperature: float, reduction: Any) -> None:
    weights = [0.25 + 0.5 * k for k in range(shape[1])] if weighted else None
    weight = None if weights is None else torch.tensor(weights)
    assert_equal_forms(
        lambda s, t: logit_kd(s, t, temperature=temperature, reduction=reduction, class_weight=weight),
        lambda s, t: naive(s, t, temperature, reduction, weights),
        *random_logits(shape, 1),
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_is_the_difference_of_the_distributions(temperature: float) -> None:
    student, teacher = random_logits((2, 4, 3, 5), 2)
    student.requires_grad_()
    logit_kd(student, teacher, temperature=temperature).backward()
    expected = ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) * temperature / 30
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 3.0])])
@pytest.mark.parametrize("reduction", ["pixel", "element"])
def test_gradcheck(weight: Tensor | None, reduction: Any) -> None:
    options: dict[str, Any] = {"temperature": 2.0, "reduction": reduction, "class_weight": weight}
    assert_gradcheck(lambda s, t: logit_kd(s, t, **options), *random_logits((2, 3, 2, 2), 3))


def test_images_average_unless_classes_are_weighted() -> None:
    batch = random_logits((3, 4, 3, 5), 6)
    assert_halves_average(lambda s, t: logit_kd(s, t, temperature=3.0), *batch)
    with pytest.raises(AssertionError):
        assert_halves_average(lambda s, t: logit_kd(s, t, class_weight=torch.arange(4.0)), *batch)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(temperature: float, scale: float) -> None:
    assert_rounding_near(
        lambda s, t: logit_kd(s, t, temperature=temperature),
        lambda value, largest: 1e-7 * temperature * (largest + temperature * math.log(7)),
        (2, 7, 9, 5),
        scale=scale,
    )


def test_hand_values() -> None:
    zero, three, nine = single(0, 0), single(math.log(3), 0), single(2 * math.log(3), 0)
    assert logit_kd(zero, three).item() == pytest.approx(0.130812036, abs=1e-9)
    assert logit_kd(zero, three, reduction="element").item() == pytest.approx(0.065406018, abs=1e-9)
    assert logit_kd(zero, nine, temperature=2.0).item() == pytest.approx(0.523248144, abs=1e-9)
    # SKD's form, a cross-entropy with the teacher's distribution, is larger by that one's entropy.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert logit_kd(zero, three).item() + entropy == pytest.approx(0.693147181, abs=1e-9)


def test_direction_is_teacher_to_student() -> None:
    student, teacher = single(0, 0), single(5, 0)
    assert logit_kd(student, teacher).item() != pytest.approx(logit_kd(teacher, student).item(), rel=0.1)
    assert logit_kd(student, student).item() == 0


def test_invariances() -> None:
    student, teacher = random_logits((2, 4, 3, 5), 4)
    value = logit_kd(student, teacher, temperature=2.0)
    per_pixel = torch.randn(2, 1, 3, 5, dtype=torch.float64)
    per_class = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(logit_kd(student + per_pixel, teacher - per_pixel, temperature=2.0), value)
    assert not torch.isclose(logit_kd(student + per_class, teacher, temperature=2.0), value)
    # Equal class weights weigh nothing.
    weighted = logit_kd(student, teacher, temperature=2.0, class_weight=torch.full((4,), 0.3))
    torch.testing.assert_close(weighted, value)


def test_small_logits_pull_alike_at_any_temperature() -> None:
    norms = []
    for temperature in (1.0, 50.0):
        student, teacher = (x / 300 for x in random_logits((1, 5, 4, 4), 5))
        student.requires_grad_()
        logit_kd(student, teacher, temperature=temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_impossible_teacher_classes_are_finite() -> None:
    student, teacher = single(0, 0, 0), single(200, -200, -float("1e4"))
    value = logit_kd(student.requires_grad_(), teacher)
    value.backward()
    assert value.item() == pytest.approx(math.log(3)) and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"temperature": 0.0}, "above 0"), ({"reduction": "pixels"}, "did you mean 'pixel'")],
)
def test_impossible_options(change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        logit_kd(single(0, 0), single(0, 0), **change)


def test_other_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match="same classes"):
        logit_kd(single(0, 0), single(0, 0, 0))


def test_class_weighted_needs_weights() -> None:
    spec = ChannelSpec((4,), 4, 3)
    with pytest.raises(UserError, match="class_weights"):
        LogitKD(Context(spec, spec, 255, None), temperature=1.0, reduction="pixel", class_weighted=True)


class TestContract(MethodContract):
    name: ClassVar[str] = "kd"
    options: ClassVar[dict[str, Any]] = {"temperature": 1.0, "reduction": "pixel", "class_weighted": False}
    falling: ClassVar[tuple[str, ...]] = ("kd",)

    def test_options_reach_the_function(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        assert student.logits is not None and teacher.logits is not None
        self.options = {"temperature": 3.0, "reduction": "element", "class_weighted": True}
        options: dict[str, Any] = {"temperature": 3.0, "reduction": "element"}
        weight = torch.tensor([0.5, 1.0, 2.0])
        expected = logit_kd(student.logits, teacher.logits, class_weight=weight, **options)
        assert self.build()(student, teacher, target())["kd"].equal(expected)


class TestClassWeightedContract(TestContract):
    options: ClassVar[dict[str, Any]] = {"temperature": 2.0, "reduction": "element", "class_weighted": True}
    additive: ClassVar[bool] = False
