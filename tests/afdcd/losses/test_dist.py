from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_rounding_near,
    maps,
    permuted_pixels,
    vectors,
)
from contracts.method import CLASSES, STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.dist import dist

SHAPES = [(1, 2, 1, 3), (2, 3, 4, 5), (3, 4, 5, 1), (1, 11, 3, 3), (4, 3, 3, 2)]


def pearson(first: list[Tensor], second: list[Tensor]) -> Tensor:
    count = len(first)
    a = [x - sum(first) / count for x in first]
    b = [x - sum(second) / count for x in second]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    norms = sum(x**2 for x in a) ** 0.5 * sum(y**2 for y in b) ** 0.5
    return product / (norms + 1e-8)


def probabilities(logits: Tensor) -> list[list[Tensor]]:
    """pixels of the batch x classes."""
    batch, classes, height, width = logits.shape
    rows = []
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                powers = [logits[b, k, y, x].exp() for k in range(classes)]
                rows.append([power / sum(powers) for power in powers])
    return rows


def naive(student: Tensor, teacher: Tensor, beta: float, gamma: float) -> Tensor:
    s, t = probabilities(student), probabilities(teacher)
    between = sum((1 - pearson(a, b) for a, b in zip(s, t, strict=True)), torch.zeros(())) / len(s)
    classes = student.shape[1]
    within = torch.zeros((), dtype=student.dtype)
    for k in range(classes):
        within = within + (1 - pearson([row[k] for row in s], [row[k] for row in t])) / classes
    return beta * between + gamma * within


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0)])
def test_equals_the_loops(shape: tuple[int, ...], beta: float, gamma: float) -> None:
    assert_equal_forms(
        lambda s, t: dist(s, t, beta=beta, gamma=gamma),
        lambda s, t: naive(s, t, beta, gamma),
        *maps(shape, shape, seed=1, scale=2.0),
    )


def test_a_class_that_nobody_predicts() -> None:
    student, teacher = maps((2, 4, 3, 3), (2, 4, 3, 3), seed=3)
    student[:, 2] -= 60
    teacher[:, 2] -= 60
    assert_equal_forms(dist, lambda s, t: naive(s, t, 1.0, 1.0), student, teacher)


def test_a_class_whose_probability_underflows_has_finite_gradients() -> None:
    student, teacher = (x.float() for x in maps((2, 4, 3, 3), (2, 4, 3, 3), seed=3))
    student[:, 2] -= 300
    value = dist(student.requires_grad_(), teacher)
    value.backward()
    assert value.isfinite() and student.grad is not None
    assert student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(scale: float, beta: float, gamma: float) -> None:
    assert_rounding_near(
        lambda s, t: dist(s, t, beta=beta, gamma=gamma),
        lambda value, largest: 2.5e-7 * (beta + gamma),
        (2, 7, 9, 5),
        scale=scale,
    )


def logits(*rows: tuple[float, ...]) -> Tensor:
    return vectors(*(tuple(math.log(p) for p in row) for row in rows))


def test_hand_values() -> None:
    student, teacher = logits((0.9, 0.1), (0.1, 0.9)), logits((0.1, 0.9), (0.9, 0.1))
    assert dist(student, teacher).item() == pytest.approx(4 - 2e-8 / 0.32, abs=1e-9)
    assert dist(student, student).item() == pytest.approx(0, abs=1e-7)
    assert dist(student, teacher, gamma=0.0).item() == pytest.approx(2, abs=1e-7)
    student, teacher = logits((0.6, 0.3, 0.1), (0.2, 0.3, 0.5)), logits((0.5, 0.2, 0.3), (0.1, 0.1, 0.8))
    first = (0.8 * 0.5 + 0.1 * 0.4 + 0.7 * 0.1) / (1.14 * 0.42) ** 0.5
    second = (0.4 * 0.7 + 0.1 * 0.7 + 0.5 * 1.4) / (0.42 * 2.94) ** 0.5
    assert dist(student, teacher, gamma=0.0).item() == pytest.approx(1 - (first + second) / 2, abs=1e-6)


def test_invariances() -> None:
    student, teacher = maps((2, 4, 3, 5), (2, 4, 3, 5))
    value = dist(student, teacher)
    per_pixel, per_class = maps((2, 1, 3, 5), (1, 4, 1, 1), seed=2)
    torch.testing.assert_close(dist(student + per_pixel, teacher - per_pixel), value)
    torch.testing.assert_close(dist(permuted_pixels(student), permuted_pixels(teacher)), value)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(dist(student[:, order], teacher[:, order]), value)
    assert not torch.isclose(dist(student / 4, teacher / 4), value, rtol=1e-3)
    assert not torch.isclose(dist(student + per_class, teacher), value, rtol=1e-3)
    assert not torch.isclose(dist(student, permuted_pixels(teacher)), value, rtol=1e-3)


def test_the_relation_within_a_class_spans_the_batch() -> None:
    student, teacher = maps((2, 3, 3, 3), (2, 3, 3, 3), seed=4)
    for beta, gamma, additive in ((1.0, 0.0, True), (0.0, 1.0, False)):
        whole = dist(student, teacher, beta=beta, gamma=gamma)
        halves = [dist(student[i : i + 1], teacher[i : i + 1], beta=beta, gamma=gamma) for i in range(2)]
        assert torch.isclose(sum(halves) / 2, whole, rtol=1e-6) == additive


def test_gradient() -> None:
    student, teacher = maps((2, 3, 2, 3), (2, 3, 2, 3))
    assert_gradcheck(lambda s, t: dist(s, t, beta=0.7, gamma=1.3), student, teacher)


def test_other_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"DIST: .*same classes"):
        dist(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2))


class TestContract(MethodContract):
    name: ClassVar[str] = "dist"
    options: ClassVar[dict[str, Any]] = {"beta": 1.0, "gamma": 1.0}
    falling: ClassVar[tuple[str, ...]] = ("dist",)
    additive: ClassVar[bool] = False

    def test_options_weigh_the_relations(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        assert student.logits is not None and teacher.logits is not None
        assert student.logits.shape[1] == CLASSES
        self.options = {"beta": 0.25, "gamma": 3.0}
        found = self.build()(student, teacher, target())["dist"]
        torch.testing.assert_close(found, dist(student.logits, teacher.logits, beta=0.25, gamma=3.0))
