"""The Triton kernel, run by Triton's interpreter in a process that may have no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

HERE = Path(__file__)
TESTS = HERE.parents[3]

CASES = """
import math
from unittest import mock

import torch
from contracts.contrast import SETTING, assert_same, loss_and_gradient, pair
from afdcd.losses.contrast import triton as kernel
from afdcd.losses.contrast.dense import dense
from afdcd.losses.contrast.forms import contrast
from afdcd.losses.contrast.rows import Setting

def run(student, teacher, setting):
    return contrast(student, teacher, setting, "triton")

kernel._TILE = 16  # tiles that no size here is a multiple of
student, teacher = pair((1, 9, 3, 5))
assert_same(run, dense, student, teacher, Setting((1, 2), 3, 0.3, "l1", True))
student, teacher = pair((2, 5, 2, 4))
assert_same(run, dense, student, teacher, Setting((2, 3), 1, 0.4, "l1", False))
student, teacher = pair((1, 10, 2, 3))
assert_same(run, dense, student, teacher, Setting((2, 2), 2, 0.4, "l2", True))
assert_same(run, dense, student, teacher, Setting((1, 1), 5, 0.4, "l2", False))

same = torch.zeros(1, 4, 1, 2, requires_grad=True)
for distance in ("l1", "l2"):
    loss, gradient = loss_and_gradient(run, same, same.detach(), Setting((1, 2), 2, 1.0, distance, True))
    assert not gradient.any() and abs(loss.item() - 4 * torch.tensor(3.0).log().item()) < 1e-5

half = student.detach().bfloat16().requires_grad_()
setting = Setting((2, 2), 2, 0.4, "l1", True)
loss, gradient = loss_and_gradient(run, half, teacher.bfloat16(), setting)
exact = half.detach().double().requires_grad_()
wide, slope = loss_and_gradient(dense, exact, teacher.bfloat16().double(), setting)
assert loss.dtype == torch.float32 and abs(loss.item() / wide.item() - 1) < 1e-5
assert (gradient.double() - slope).abs().max() < 8e-3 * slope.abs().max()
assert not run(student.detach(), teacher, setting).requires_grad

# The interpreter writes wherever it is told to: nothing may lie behind the last row.
whole = []

def guarded(*shape, **kind):
    count = math.prod(shape)
    whole.append(torch.full((count + 64,), 7.0, **kind))
    return whole[-1][:count].view(shape)

with mock.patch.object(torch, "empty", guarded):
    run(student, teacher, setting)
assert len(whole) == 1 and (whole[0][-64:] == 7.0).all() and (whole[0][:-64] != 7.0).all()
"""


def test_the_kernel_is_the_dense_form_in_the_interpreter() -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", CASES], env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", ["triton", "compiled", "chunked"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_all_forms_are_the_dense_form_on_a_gpu(form: str, distance: str) -> None:
    from contracts.contrast import SETTING, assert_same, pair

    from afdcd.losses.contrast.dense import dense
    from afdcd.losses.contrast.forms import contrast

    setting = SETTING._replace(distance=distance)  # type: ignore[arg-type]
    for shape in ((2, 6, 5, 7), (2, 96, 9, 8)):
        student, teacher = (x.detach().cuda() for x in pair(shape, torch.float32))
        student.requires_grad_()
        assert_same(lambda s, t, x: contrast(s, t, x, form), dense, student, teacher, setting)  # type: ignore[arg-type]
        torch.cuda.set_sync_debug_mode("error" if form == "triton" else "default")
        torch.autograd.grad(contrast(student, teacher, setting, form), student)  # type: ignore[arg-type]
        torch.cuda.set_sync_debug_mode("default")
