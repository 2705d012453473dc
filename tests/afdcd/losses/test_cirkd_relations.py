from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.forms import (
    D,
    Loss,
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    maps,
    orthogonal,
    permuted_pixels,
    vectors,
)
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.cirkd import memory_relation, mini_batch_pixel

SHAPES = [(1, 2, 1, 3), (2, 3, 3, 2), (3, 4, 1, 5), (2, 1, 3, 3), (1, 5, 5, 3), (3, 2, 2, 3)]


def cells(features: Tensor) -> list[list[Tensor]]:
    """Each image's cells at unit length, a cell of zeros as it is."""
    return [
        [vector / vector.square().sum().sqrt() if vector.any() else vector for vector in image.flatten(1).T]
        for image in features
    ]


def divergence(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    """KL of the softmaxes of two lists of cosines."""
    q, p = ([(x / temperature).exp() for x in row] for row in (student, teacher))
    return sum(
        (b / sum(p) * ((b / sum(p)).log() - (a / sum(q)).log()) for a, b in zip(q, p, strict=True)),
        torch.zeros((), dtype=D),
    )


def naive_mini_batch(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    ours, theirs = cells(student), cells(teacher)
    total, batch = torch.zeros((), dtype=D), len(student)
    for i in range(batch):
        for j in range(batch):
            rows = [
                divergence([s @ x for x in ours[j]], [t @ x for x in theirs[j]], temperature)
                for s, t in zip(ours[i], theirs[i], strict=True)
            ]
            total = total + torch.stack(rows).mean()
    return total / batch**2


def naive_memory(
    student: Tensor, teacher: Tensor, bank: Tensor, temperature: float, filled: Tensor, taken: Tensor
) -> Tensor:
    ours, theirs = cells(student), cells(teacher)
    known = [vector for vector, there in zip(bank, filled, strict=True) if there]
    rows = [
        divergence([s @ v for v in known], [t @ v for v in known], temperature)
        for b in range(len(student))
        for i, (s, t) in enumerate(zip(ours[b], theirs[b], strict=True))
        if taken[b].flatten()[i]
    ]
    return torch.stack(rows).mean() if rows and known else 0 * student.sum()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("teacher_channels", [2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_mini_batch_equals_the_loops(shape: Any, teacher_channels: int, temperature: float) -> None:
    student, teacher = maps(shape, (shape[0], teacher_channels, *shape[2:]), seed=1)
    student[0, :, 0, 0] = teacher[-1, :, -1, -1] = 0  # dead cells
    assert_equal_forms(
        lambda s, t: mini_batch_pixel(s, t, temperature=temperature),
        lambda s, t: naive_mini_batch(s, t, temperature),
        student,
        teacher,
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_equals_the_loops(shape: Any, temperature: float) -> None:
    draw = torch.Generator().manual_seed(2)
    bank = torch.nn.functional.normalize(torch.randn(7, shape[1], generator=draw, dtype=D))
    filled = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    bank[~filled] = 0
    taken = torch.rand(shape[0], *shape[2:], generator=draw) < 0.6
    student, teacher = maps(shape, shape, seed=2)
    student[-1, :, 0, 0] = teacher[0, :, -1, -1] = 0
    assert_equal_forms(
        lambda s, t: memory_relation(s, t, bank, temperature=temperature, filled=filled, taken=taken),
        lambda s, t: naive_memory(s, t, bank, temperature, filled, taken),
        student,
        teacher,
    )
    full, every = torch.ones_like(filled), torch.ones_like(taken)
    expected = naive_memory(student, teacher, bank, temperature, full, every)
    torch.testing.assert_close(memory_relation(student, teacher, bank, temperature=temperature), expected)


def test_hand_value() -> None:
    equal, orthogonal_ = vectors((1.0, 0.0), (1.0, 0.0)), vectors((1.0, 0.0), (0.0, 1.0))
    assert mini_batch_pixel(equal, orthogonal_, temperature=1.0).item() == pytest.approx(
        0.110944072, abs=1e-9
    )


def test_mini_batch_invariances() -> None:
    student, teacher = maps((3, 4, 2, 3), (3, 5, 2, 3), seed=3)
    value = mini_batch_pixel(student, teacher)
    scale = 0.2 + maps((3, 1, 2, 3), seed=4)[0].abs()
    for s, t in (
        (student * scale, teacher),
        (student, teacher * scale),
        (orthogonal(4)(student), orthogonal(5)(teacher)),
        (student[[2, 0, 1]], teacher[[2, 0, 1]]),
        (permuted_pixels(student), permuted_pixels(teacher)),
    ):
        torch.testing.assert_close(mini_batch_pixel(s, t), value)
    alone = torch.stack([mini_batch_pixel(student[i : i + 1], teacher[i : i + 1]) for i in range(3)]).mean()
    for other in (
        alone,
        mini_batch_pixel(student + 1, teacher),
        mini_batch_pixel(permuted_pixels(student), teacher),
    ):
        assert not torch.isclose(other, value, rtol=1e-3)


def test_gradchecks_and_halves() -> None:
    student, teacher = maps((2, 3, 2, 2), (2, 3, 2, 2), seed=5)
    bank = torch.nn.functional.normalize(maps((4, 3), seed=6)[0])
    assert_gradcheck(lambda s, t: mini_batch_pixel(s, t, temperature=0.5), student, teacher)
    assert_gradcheck(lambda s, t: memory_relation(s, t, bank), student, teacher)
    assert_halves_average(lambda s, t: memory_relation(s, t, bank), student, teacher)


def relations(temperature: float) -> list[Loss]:
    bank = torch.nn.functional.normalize(maps((9, 6), seed=8)[0])
    return [
        lambda s, t: mini_batch_pixel(s, t, temperature=temperature),
        lambda s, t: memory_relation(s, t, bank.to(s), temperature=temperature),
    ]


def test_a_perfect_student_costs_nothing() -> None:
    (teacher,) = maps((2, 6, 2, 4), seed=7, relu=True)
    for loss in relations(0.1):
        assert loss(teacher, teacher).item() == 0


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("closeness", [0.0, 1e-5, 1e-3, 1e-2])
def test_near_the_teacher_float32_keeps_the_stated_rounding(closeness: float, temperature: float) -> None:
    teacher, noise = (x.float() for x in maps((2, 6, 3, 5), (2, 6, 3, 5), seed=9))
    student = 3 * teacher + closeness * noise
    for loss in relations(temperature):
        expected = loss(student.double(), teacher.double()).item()
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5, abs=1e-7 / temperature)


@pytest.mark.parametrize("gone", ["cells", "memory"])
def test_memory_without_cells_or_vectors_is_a_zero_with_a_graph(gone: str) -> None:
    student, teacher = maps((1, 2, 2, 2), (1, 2, 2, 2))
    taken = torch.full((1, 2, 2), gone == "memory")
    filled = torch.full((3,), gone == "cells")
    value = memory_relation(student.requires_grad_(), teacher, torch.zeros(3, 2), filled=filled, taken=taken)
    value.backward()
    assert value.item() == 0 and student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("loss", relations(0.1))
def test_maps_that_differ_are_refused_with_both_shapes(loss: Loss) -> None:
    for shape in ((2, 6, 3, 4), (1, 6, 3, 5)):
        with pytest.raises(UserError, match=r"student's map is \(2, 6, 3, 5\), the teacher's \(") as error:
            loss(*maps((2, 6, 3, 5), shape))
        assert str(shape) in str(error.value)


def test_memory_compares_maps_of_one_width() -> None:
    with pytest.raises(UserError, match=r"\(1, 2, 2, 2\), the teacher's \(1, 3, 2, 2\).*channels"):
        memory_relation(*maps((1, 2, 2, 2), (1, 3, 2, 2)), torch.eye(3, dtype=D))


@pytest.mark.parametrize("loss", [mini_batch_pixel, lambda s, t, **o: memory_relation(s, t, s[0, :, 0], **o)])
def test_impossible_temperature(loss: Any) -> None:
    with pytest.raises(UserError, match="above 0, got 0"):
        loss(*maps((1, 2, 2, 2), (1, 2, 2, 2)), temperature=0)
