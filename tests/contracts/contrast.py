"""Maps, settings and comparisons for tests of the contrast's forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from afdcd.losses.contrast.rows import Setting

Form = Callable[[Tensor, Tensor, Setting], Tensor]

SETTING = Setting((2, 3), 3, 0.3, "l1", cross_group=True)
SETTINGS = [
    SETTING,
    SETTING._replace(distance="l2", temperature=0.5),
    SETTING._replace(cross_group=False, groups=2),
    SETTING._replace(patch=(1, 1), groups=6, cross_group=False, distance="l2"),
    SETTING._replace(patch=(5, 7), groups=1, cross_group=False, temperature=0.05),
]


def pair(shape: tuple[int, ...] = (2, 6, 5, 7), dtype: Any = torch.float64) -> tuple[Tensor, Tensor]:
    """Two maps after a ReLU: many of their zeros meet."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=draw, dtype=dtype).relu() for _ in range(2))
    return student.requires_grad_(), teacher


def loss_and_gradient(
    form: Form, student: Tensor, teacher: Tensor, setting: Setting
) -> tuple[Tensor, Tensor]:
    loss = form(student, teacher, setting)
    return loss.detach(), torch.autograd.grad(3 * loss, student)[0]


def naive(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    """The sum over anchors by loops over patches and rows."""
    (height, width), total = setting.patch, torch.zeros((), dtype=student.dtype)
    for image in range(len(student)):
        for top in range(0, student.shape[2] - height + 1, height):
            for left in range(0, student.shape[3] - width + 1, width):
                area = (image, slice(None), slice(top, top + height), slice(left, left + width))
                total = total + _patch(student[area], teacher[area], setting)
    return total


def _patch(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    sides = (range(setting.groups), range(setting.patch[0]), range(setting.patch[1]))
    names = list(itertools.product(*sides))
    depth = len(student) // setting.groups
    total = torch.zeros((), dtype=student.dtype)
    for g, y, x in names:
        anchor, own, others = student[g * depth : (g + 1) * depth, y, x], None, []
        for h, v, u in names:
            difference = anchor - teacher[h * depth : (h + 1) * depth, v, u]
            norm = difference.abs().sum() if setting.distance == "l1" else difference.norm()
            if (h, v, u) == (g, y, x):
                own = -norm / setting.temperature
                others.append(own)
            elif h != g or not setting.cross_group:
                others.append(-norm / setting.temperature)
        assert own is not None
        total = total + torch.stack(others).logsumexp(0) - own
    return total


def assert_same(form: Form, other: Form, student: Tensor, teacher: Tensor, setting: Setting) -> None:
    """Both give the same value and gradient, to the rounding of the student's precision."""
    loss, gradient = loss_and_gradient(form, student, teacher, setting)
    expected, slope = loss_and_gradient(other, student, teacher, setting)
    exact = student.dtype == torch.float64
    tight: dict[str, float] = {"rtol": 1e-11, "atol": 1e-11} if exact else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(loss, expected, **tight)
    # Rounding of a slope is a share of 1 / t, that of the largest possible one.
    near = tight["atol"] * 10 / setting.temperature
    torch.testing.assert_close(gradient, slope, rtol=1e-9 if exact else 1e-4, atol=near)
    assert math.isfinite(loss.item()) and slope.any()
