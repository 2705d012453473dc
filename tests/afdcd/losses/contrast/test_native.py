from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.contrast import SETTING, SETTINGS, assert_same, loss_and_gradient, pair

from afdcd.errors import UserError
from afdcd.losses.contrast import native as module
from afdcd.losses.contrast.dense import dense
from afdcd.losses.contrast.native import native
from afdcd.losses.contrast.rows import Setting
from afdcd.native.kernels import Library, has_kernels, loaded

needs_kernels = pytest.mark.skipif(not has_kernels(), reason=loaded().reason)


@needs_kernels
@pytest.mark.parametrize("numbers", [1, 100, 2**18])
@pytest.mark.parametrize("setting", [*SETTINGS, SETTING._replace(temperature=9.0)])
def test_stretches_of_any_size_equal_the_dense_form(
    setting: Setting, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", numbers)
    assert_same(native, dense, *pair((3, 6, 5, 7)), setting)
    assert_same(native, dense, *pair((3, 6, 5, 7), torch.float32), setting)


@needs_kernels
@pytest.mark.parametrize("rows", [(1, 1), (1, 3), (1, 17), (3, 11), (8, 8), (13, 5)])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_any_number_of_rows(rows: tuple[int, int], distance: Any) -> None:
    # Fewer than one vector, and one more than whole steps.
    student, teacher = pair((2, 10, *rows))
    for groups, cross_group in ((1, False), (2, True), (5, True)):
        setting = Setting(rows, groups, 0.2, distance, cross_group)
        values = [loss_and_gradient(form, student, teacher, setting) for form in (native, dense)]
        torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)


@needs_kernels
def test_half_types_are_widened() -> None:
    student, teacher = (x.detach().bfloat16() for x in pair((2, 24, 6, 9), torch.float32))
    loss, gradient = loss_and_gradient(native, student.requires_grad_(), teacher, SETTING)
    wide, slope = loss_and_gradient(
        native, student.detach().float().requires_grad_(), teacher.float(), SETTING
    )
    assert loss.dtype == torch.float32 and loss.equal(wide)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, slope.bfloat16(), rtol=1e-2, atol=1e-3)


@needs_kernels
def test_a_teacher_of_another_type_is_read_as_the_student_s() -> None:
    student, teacher = pair((2, 6, 4, 6), torch.float32)
    loss, _ = loss_and_gradient(native, student, teacher.double(), SETTING)
    assert loss.equal(loss_and_gradient(native, student, teacher, SETTING)[0])


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    student, teacher = pair((3, 48, 8, 8), torch.float32)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(loss_and_gradient(native, student, teacher, SETTING))
    finally:
        torch.set_num_threads(threads)
    assert all(x.equal(y) for run in runs[1:] for x, y in zip(runs[0], run, strict=True))


@needs_kernels
@pytest.mark.parametrize("place", ["student", "teacher"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_no_number_stays_no_number(place: str, distance: Any) -> None:
    maps = dict(zip(("student", "teacher"), pair((1, 6, 4, 6)), strict=True))
    with torch.no_grad():
        maps[place][0, 1, 2, 4] = torch.nan
    setting = SETTING._replace(distance=distance)
    loss, gradient = loss_and_gradient(native, maps["student"], maps["teacher"], setting)
    assert loss.isnan()
    # Of the student one anchor, channels 0 and 1; of the teacher all anchors of the patch.
    expected = torch.zeros_like(gradient, dtype=torch.bool)
    if place == "student":
        expected[0, :2, 2, 4] = True
    else:
        expected[0, :, 2:4, 3:6] = True
    assert gradient.isnan().equal(expected)


@needs_kernels
def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    student, teacher = pair()
    value = native(student.detach(), teacher.requires_grad_(), SETTING)
    assert not value.requires_grad
    assert value.item() == pytest.approx(dense(student, teacher, SETTING).item())


def test_what_cannot_run_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"runtime.contrast: native needs a CPU, not meta; set it to auto"):
        native(*(x.to("meta") for x in pair()), SETTING)
    monkeypatch.setattr(module, "loaded", lambda: Library(None, "no C compiler is installed"))
    with pytest.raises(UserError, match=r"native: no C compiler is installed; install a C compiler, or set"):
        native(*pair(), SETTING)
