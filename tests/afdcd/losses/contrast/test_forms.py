from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from contracts.contrast import SETTING, SETTINGS, Form, assert_same, loss_and_gradient, naive, pair

from afdcd.errors import UserError
from afdcd.losses.contrast import chunked as chunks
from afdcd.losses.contrast import forms
from afdcd.losses.contrast.chunked import chunked
from afdcd.losses.contrast.dense import dense
from afdcd.losses.contrast.forms import chosen, contrast
from afdcd.losses.contrast.native import native
from afdcd.losses.contrast.rows import Setting
from afdcd.native.kernels import has_kernels

FAST = [chunked, native] if has_kernels() else [chunked]
FORMS = [dense, *FAST]


@pytest.mark.parametrize("setting", SETTINGS)
def test_dense_is_the_naive_form(setting: Setting) -> None:
    assert_same(dense, naive, *pair((1, 6, 5, 7)), setting)


@pytest.mark.parametrize("few", [-1, 1.0])
@pytest.mark.parametrize("cells_at_once", [1, 40, 500, 2**18])
@pytest.mark.parametrize("setting", SETTINGS)
def test_chunks_of_any_size_equal_the_dense_form(
    setting: Setting, cells_at_once: int, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CELLS_AT_ONCE", cells_at_once)
    monkeypatch.setattr(chunks, "_FEW", few)
    assert_same(chunked, dense, *pair((3, 6, 5, 7)), setting)


@pytest.mark.parametrize("differences", [1, 700, 2**17])
def test_long_rows_by_passes_over_differences(differences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_DIFFERENCES_AT_ONCE", differences)
    monkeypatch.setattr(torch, "cdist", None)
    student, teacher = pair((2, 3 * 64, 2, 3))
    loss, _ = loss_and_gradient(chunked, student, teacher, SETTING)
    monkeypatch.undo()
    assert loss.item() == pytest.approx(dense(student, teacher, SETTING).item(), rel=1e-12)
    assert_same(chunked, dense, student, teacher, SETTING)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("temperature", [0.07, 5.0])
def test_single_precision_in_either_layout(
    form: Form, layout: torch.memory_format, temperature: float
) -> None:
    student, teacher = (
        x.detach().float().to(memory_format=layout) for x in pair((2, 24, 6, 9), torch.float32)
    )
    assert_same(form, dense, student.requires_grad_(), teacher, SETTING._replace(temperature=temperature))


def test_few_pairs_are_gathered_and_many_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("_gathered", "_gradient"):
        original = getattr(chunks, name)
        monkeypatch.setattr(chunks, name, lambda *a, n=name, f=original: (taken.append(n), f(*a))[1])
    student, teacher = pair((2, 48, 8, 8))
    setting = Setting((4, 4), 4, 0.01, "l1", cross_group=True)
    kernels = chunks.Kernels(chunks._distances, lambda *a: chunks._gradient(*a))
    for temperature in (0.01, 10.0):
        one = setting._replace(temperature=temperature)
        loss_and_gradient(lambda s, t, x: chunked(s, t, x, kernels), student, teacher, one)
    assert taken == ["_gathered", "_gradient"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_zero_differences_pull_nowhere(form: Form, distance: Any) -> None:
    # d|x|/dx is taken as 0 at 0: equal rows everywhere leave no gradient.
    same = torch.zeros(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    setting = Setting((2, 3), 2, 1.0, distance, cross_group=True)
    assert not loss_and_gradient(form, same, torch.zeros_like(same), setting)[1].any()


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_gradcheck(form: Form, distance: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 6, 2, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    setting = SETTING._replace(distance=distance, temperature=0.7)
    assert torch.autograd.gradcheck(lambda x: form(x, teacher, setting), student.requires_grad_())


def test_hand_values_of_a_patch_of_one_by_two_cells() -> None:
    # Cells (1, 0) and (2, 0), two groups of one channel; student and teacher are equal.
    patch = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    for form in FORMS:
        for cross_group, expected in ((True, 0.803100705), (False, 1.536315840)):
            value = form(patch, patch, Setting((1, 2), 2, 1.0, "l1", cross_group)) / 2
            assert value.item() == pytest.approx(expected, abs=1e-9)


def test_hand_values_of_the_norms() -> None:
    # Two rows, (3, 4) apart: 7 by the one norm, 5 by the other.
    patch = torch.tensor([[[[0.0, 3.0]], [[0.0, 4.0]]]], dtype=torch.float64)
    for form in FORMS:
        distances: list[tuple[Any, int]] = [("l1", 7), ("l2", 5)]
        for distance, apart in distances:
            value = form(patch, patch, Setting((1, 2), 1, 2.0, distance, cross_group=False))
            assert value.item() == pytest.approx(2 * math.log(1 + math.exp(-apart / 2)), abs=1e-12)


@pytest.mark.parametrize("form", FAST)
def test_moving_a_teacher_row_moves_its_own_anchor_and_other_groups_only(form: Form) -> None:
    student, teacher = pair((1, 12, 1, 4))
    setting = Setting((1, 2), 4, 1.0, "l2", cross_group=True)
    moved = teacher.clone()
    moved[0, 6:9, 0, 1] += 0.1  # group 2 of the first patch's second cell
    before, after = (loss_and_gradient(form, student, t, setting)[1] for t in (teacher, moved))
    changed = (before != after).view(4, 3, 4).any(1)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:, :2] = True
    expected[2, 0] = False
    assert changed.equal(expected)


def test_l2_near_the_teacher_does_not_cancel() -> None:
    # Large common offsets would ruin distances computed from a matrix product.
    draw = torch.Generator().manual_seed(0)
    teacher = 100 + torch.randn(1, 8, 8, 8, generator=draw)
    student = teacher + 1e-3 * torch.randn(1, 8, 8, 8, generator=draw)
    setting = Setting((8, 8), 1, 1.0, "l2", cross_group=False)
    for form in FORMS:
        exact = form(student.double(), teacher.double(), setting).item()
        assert form(student, teacher, setting).item() == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("form", FAST)
def test_a_perfect_student_still_has_a_loss_in_single_precision(form: Form) -> None:
    # The rest beside the positive is 8e-7 here, of which 1 + rest would keep one digit.
    patch = torch.tensor([[[[0.0, 14.0]]]])
    value = form(patch, patch, Setting((1, 2), 1, 1.0, "l1", cross_group=False))
    assert value.item() == pytest.approx(2 * math.log1p(math.exp(-14)), rel=1e-5, abs=0)


def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    student, teacher = pair()
    kernels = chunks.Kernels(chunks._distances, None)  # type: ignore[arg-type]
    setting = SETTING._replace(temperature=9.0)
    value = chunked(student.detach(), teacher, setting, kernels)
    assert value.item() == pytest.approx(dense(student, teacher, setting).item())
    teacher.requires_grad_()
    assert not any(form(student.detach(), teacher, SETTING).requires_grad for form in FORMS)


@pytest.mark.parametrize("form", FAST)
def test_a_second_backward_pass_finds_the_gradient_as_it_was(form: Form) -> None:
    student, teacher = pair()
    loss = form(student, teacher, SETTING)
    first = torch.autograd.grad(2 * loss, student, retain_graph=True)[0]
    second = torch.autograd.grad(2 * loss, student)[0]
    assert first.equal(second) and first.any()


def test_the_gradient_takes_no_memory_twice() -> None:
    gradient = torch.ones(3)
    (x := torch.ones((), requires_grad=True)).register_hook(
        lambda upstream: chunks.scaled(gradient, 2 * upstream).sum()
    )
    x.backward()
    assert gradient.tolist() == [2, 2, 2]


@pytest.mark.parametrize("form", FAST)
def test_second_derivatives_are_refused(form: Form) -> None:
    student, teacher = pair()
    (gradient,) = torch.autograd.grad(form(student, teacher, SETTING) ** 2, student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_all_rows_equal_is_the_log_of_their_number() -> None:
    zeros = torch.zeros(1, 6, 2, 2)
    for groups, cross_group, columns in ((2, False, 8), (3, True, 9), (1, True, 1)):
        setting = Setting((2, 2), groups, 0.1, "l1", cross_group)
        for form in FORMS:
            expected = setting.rows * math.log(columns)
            assert form(zeros, zeros, setting).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", FAST)
def test_results_are_the_same_bits_each_time(form: Form) -> None:
    student, teacher = pair((2, 48, 8, 8), torch.float32)
    runs = [loss_and_gradient(form, student, teacher, SETTING) for _ in range(2)]
    assert all(one.equal(other) for one, other in zip(*runs, strict=True))


def test_auto_is_native_on_a_cpu_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in ((True, "native"), (False, "chunked")):
        monkeypatch.setattr(forms, "has_kernels", lambda found=found: found)
        assert chosen(torch.device("cpu")) == expected


def test_auto_takes_triton_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in ((object(), "triton"), (None, "chunked")):
        monkeypatch.setattr(forms, "find_spec", lambda name, found=found: found)
        assert chosen(torch.device("cuda")) == expected


def test_the_form_that_runs_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    forms._tell.cache_clear()
    student, teacher = pair()
    with caplog.at_level(logging.INFO):
        values = [contrast(student, teacher, SETTING, form).item() for form in ("auto", "auto", "dense")]
    assert [r.message for r in caplog.records] == [
        "contrast: the form native on cpu",
        "contrast: the form dense on cpu",
    ]
    assert values[0] == values[1] == pytest.approx(values[2])


def test_triton_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair()
    with pytest.raises(UserError, match=r"runtime.contrast: triton needs a GPU, not cpu; set it to auto"):
        contrast(student, teacher, SETTING, "triton")
    monkeypatch.setattr(forms, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"runtime.contrast: triton is not installed here"):
        contrast(student, teacher, SETTING, "triton")


@pytest.mark.parametrize("form", FAST)
def test_the_gradient_takes_the_factor_from_outside(form: Form) -> None:
    student, teacher = pair()
    student.requires_grad_()
    (once,) = torch.autograd.grad(form(student, teacher, SETTING), student)
    (thrice,) = torch.autograd.grad(3 * form(student, teacher, SETTING), student)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("form", FAST)
def test_each_of_two_backward_passes_takes_its_own_factor(form: Form) -> None:
    student, teacher = pair()
    student.requires_grad_()
    (once,) = torch.autograd.grad(form(student, teacher, SETTING), student)
    loss = form(student, teacher, SETTING)
    (thrice,) = torch.autograd.grad(3 * loss, student, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * loss, student)
    torch.testing.assert_close(thrice, 3 * once)
    torch.testing.assert_close(twice, 2 * once)
