from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.forms import D, Loss, assert_halves_average, maps
from torch import Tensor

from afdcd.losses.afdcd import channel_contrast, masked_feature_loss, omni_contrast, spatial_contrast

M, SIZE, TAU = 3, 2, 0.7
"""Groups, channels of a group and temperature of the invariance tests."""


def omni(student: Tensor, teacher: Tensor, temperature: float = TAU) -> float:
    return omni_contrast(student, teacher, pool=1, patch_size=2, groups=M, temperature=temperature).item()


def both(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda s, t: (change(s), change(t))


def swap_patches(x: Tensor) -> Tensor:
    return torch.cat([x[..., 2:4], x[..., :2]], -1)


def swap_cells_of_first_patch(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., 0, 0], x[..., 1, 1] = x[..., 1, 1].clone(), x[..., 0, 0].clone()
    return x


def swap_cells_of_two_patches(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., 0, 0], x[..., 0, 2] = x[..., 0, 2].clone(), x[..., 0, 0].clone()
    return x


def per_channel(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=D).view(1, -1, 1, 1)


UNCHANGED = {
    "same permutation in every group": both(lambda x: x[:, [1, 0, 3, 2, 5, 4]]),
    "order of groups": both(lambda x: x[:, [4, 5, 0, 1, 2, 3]]),
    "order of patches": both(swap_patches),
    "order of cells in a patch": both(swap_cells_of_first_patch),
    "one offset repeated in every group": both(lambda x: x + per_channel([0.5, -2.0] * M)),
    "joint sign repeated in every group": both(lambda x: x * per_channel([1.0, -1.0] * M)),
    "the batch twice": both(lambda x: torch.cat([x, x])),
    "order of images": both(lambda x: x.flip(0)),
}
CHANGED = {
    "other permutation in one group": both(lambda x: x[:, [1, 0, 2, 3, 4, 5]]),
    "offsets free of groups": both(lambda x: x + per_channel([0.5, -2, 0, 1, 3, 0])),
    "cells of two patches": both(swap_cells_of_two_patches),
    "roll by one cell": both(lambda x: x.roll(1, -1)),
    "student and teacher exchanged": lambda s, t: (t, s),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_omni_does_not_depend_on(name: str) -> None:
    student, teacher = maps((2, M * SIZE, 4, 4), (2, M * SIZE, 4, 4), seed=5)
    assert omni(*UNCHANGED[name](student, teacher)) == pytest.approx(omni(student, teacher), rel=1e-12)


@pytest.mark.parametrize("name", CHANGED)
def test_omni_depends_on(name: str) -> None:
    student, teacher = maps((2, M * SIZE, 4, 4), (2, M * SIZE, 4, 4), seed=5)
    assert omni(*CHANGED[name](student, teacher)) != pytest.approx(omni(student, teacher), rel=1e-4)


def test_omni_scales_with_temperature_and_has_the_flat_limit() -> None:
    student, teacher = maps((2, M * SIZE, 4, 4), (2, M * SIZE, 4, 4), seed=6)
    expected = omni(student, teacher)
    assert omni(3 * student, 3 * teacher, 3 * TAU) == pytest.approx(expected, rel=1e-12)
    assert omni(student, teacher, 1e9) == pytest.approx(M * math.log(1 + 4 * (M - 1)), rel=1e-6)


def test_a_perfect_student_costs_little_but_not_nothing() -> None:
    student, teacher = maps((1, 32, 4, 4), (1, 32, 4, 4), seed=7)
    options: dict[str, Any] = {"pool": 1, "groups": 2, "temperature": 1.0}
    perfect, random = omni_contrast(teacher, teacher, **options), omni_contrast(student, teacher, **options)
    assert 0 < perfect < 0.1 * random


def test_pooling_takes_the_maximum_and_floors() -> None:
    student, teacher = maps((1, 4, 9, 9), (1, 4, 9, 9), seed=8)
    student[0, :, 0, 1] = 5  # the maximum of its window
    # By l1 a value above all of the teacher's could rise unseen: all its distances grow alike.
    options: dict[str, Any] = {"pool": 2, "patch_size": 2, "groups": 2, "distance": "l2"}
    expected = omni_contrast(student, teacher, **options).item()
    beyond, below, above = student.clone(), student.clone(), student.clone()
    beyond[..., 8, :] = beyond[..., :, 8] = 100
    below[0, :, 0, 0] = -100
    above[0, 0, 0, 0] = 6
    assert omni_contrast(beyond, teacher, **options).item() == expected
    assert omni_contrast(below, teacher, **options).item() == expected
    assert omni_contrast(above, teacher, **options).item() != expected


def test_camvid_map_of_45_cells_uses_its_first_44() -> None:
    student, teacher = maps((1, 2, 45, 45), (1, 2, 45, 45), seed=9)
    whole = omni_contrast(student, teacher, pool=1, groups=2)
    first = omni_contrast(student[..., :44, :44], teacher[..., :44, :44], pool=1, groups=2)
    assert whole.item() == first.item()


@pytest.mark.parametrize("loss", [omni_contrast, channel_contrast, spatial_contrast, masked_feature_loss])
def test_halves_average(loss: Loss) -> None:
    assert_halves_average(loss, *maps((2, 16, 16, 16), (2, 16, 16, 16), seed=11))
