from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from afdcd.losses import contrast
from afdcd.losses.contrast import chunked, dense

FORMS = [dense, chunked]


def rows(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(shape, generator=draw, dtype=torch.float64)
    return student.requires_grad_(), torch.randn(shape, generator=draw, dtype=torch.float64)


def both(student: Tensor, teacher: Tensor, **options: Any) -> list[tuple[Tensor, Tensor]]:
    results = []
    for form in FORMS:
        loss = form(student, teacher, **options)
        results.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    return results


@pytest.mark.parametrize("cells_at_once", [1, 40, 150, 2**19])
@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("groups", [None, 1, 3])
def test_chunks_of_any_size_equal_the_dense_form(
    groups: int | None, distance: Any, cells_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast, "_CELLS_AT_ONCE", cells_at_once)
    (loss, gradient), (chunked_loss, chunked_gradient) = both(
        *rows((5, 12, 4)), temperature=0.3, distance=distance, groups=groups
    )
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_ties_of_relu_zeros_have_the_dense_gradient(distance: Any) -> None:
    student, teacher = rows((3, 8, 5))
    student = student.detach().relu().requires_grad_()
    teacher = teacher.relu()
    assert ((student == 0) & (teacher == 0)).any()
    (loss, gradient), (chunked_loss, chunked_gradient) = both(
        student, teacher, temperature=0.5, distance=distance, groups=4
    )
    assert gradient.isfinite().all() and gradient.any()
    torch.testing.assert_close(chunked_loss, loss)
    torch.testing.assert_close(chunked_gradient, gradient)


def test_zero_differences_pull_nowhere() -> None:
    # d|x|/dx is taken as 0 at 0: equal rows everywhere leave no gradient, by either form.
    same = torch.zeros(1, 6, 2, dtype=torch.float64, requires_grad=True)
    for distance in ("l1", "l2"):
        results = both(same, torch.zeros_like(same), temperature=1.0, distance=distance, groups=2)
        assert not any(gradient.any() for _, gradient in results)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_gradcheck(distance: Any) -> None:
    student, teacher = rows((2, 6, 3))

    def loss(x: Tensor) -> Tensor:
        return chunked(x, teacher, temperature=0.7, distance=distance, groups=3)

    assert torch.autograd.gradcheck(loss, student)


def test_hand_values_of_a_patch_of_one_by_two_cells() -> None:
    # Cells (1, 0) and (2, 0), two groups of one channel; student and teacher are equal.
    patch = torch.tensor([[[1.0], [0.0], [2.0], [0.0]]], dtype=torch.float64)
    for form in FORMS:
        for groups, expected in ((2, 0.803100705), (None, 1.536315840)):
            value = form(patch, patch, temperature=1.0, distance="l1", groups=groups) / 2
            assert value.item() == pytest.approx(expected, abs=1e-9)


def test_hand_values_of_the_norms() -> None:
    # Two equal rows, (3, 4) apart: 7 by the one norm, 5 by the other.
    block = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], dtype=torch.float64)
    for form in FORMS:
        for distance, apart in (("l1", 7), ("l2", 5)):
            value = form(block, block, temperature=2.0, distance=distance, groups=None)
            assert value.item() == pytest.approx(2 * math.log(1 + math.exp(-apart / 2)), abs=1e-12)


def test_moving_a_teacher_row_moves_its_own_anchor_and_other_groups_only() -> None:
    student, teacher = rows((2, 8, 3))
    cell, group, groups = 1, 2, 4
    moved = teacher.clone()
    moved[0, cell * groups + group] += 0.1
    before, after = (
        both(student, t, temperature=1.0, distance="l2", groups=groups)[1][1] for t in (teacher, moved)
    )
    changed = (before != after).any(-1)
    expected = torch.zeros(2, 8, dtype=torch.bool)
    expected[0] = torch.arange(8) % groups != group
    expected[0, cell * groups + group] = True
    assert changed.equal(expected)


def test_l2_near_the_teacher_does_not_cancel() -> None:
    # Large common offsets would ruin distances computed from a matrix product.
    draw = torch.Generator().manual_seed(0)
    teacher = 100 + torch.randn(1, 64, 8, generator=draw)
    student = teacher + 1e-3 * torch.randn(1, 64, 8, generator=draw)
    narrow = chunked(student, teacher, temperature=1.0, distance="l2", groups=None)
    wide = chunked(student.double(), teacher.double(), temperature=1.0, distance="l2", groups=None)
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-4)


def test_no_gradient_is_formed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = rows((2, 6, 3))
    options: dict[str, Any] = {"temperature": 0.7, "distance": "l1", "groups": 3}
    expected = dense(student, teacher, **options).item()
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert chunked(student.detach(), teacher, **options).item() == pytest.approx(expected)
    teacher.requires_grad_()
    assert not chunked(student.detach(), teacher, **options).requires_grad


def test_second_derivatives_are_refused() -> None:
    student, teacher = rows((1, 4, 2))
    loss = chunked(student, teacher, temperature=1.0, distance="l1", groups=2)
    (gradient,) = torch.autograd.grad(loss**2, student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_all_rows_equal_is_the_log_of_their_number() -> None:
    zeros = torch.zeros(1, 12, 2)
    for groups, columns in ((None, 12), (3, 9), (1, 1)):
        value = chunked(zeros, zeros, temperature=0.1, distance="l1", groups=groups)
        assert value.item() == pytest.approx(12 * math.log(columns), rel=1e-6)
