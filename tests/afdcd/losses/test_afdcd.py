from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from contracts.method import BATCH, CLASSES, STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.afdcd import (
    AfDCD,
    channel_contrast,
    masked_feature_loss,
    omni_contrast,
    spatial_contrast,
)
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec

Loss = Callable[[Tensor, Tensor], Tensor]
D = torch.float64


def pair(shape: tuple[int, ...], seed: int = 0, relu: bool = False) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=draw, dtype=D)
    teacher = torch.randn(shape, generator=draw, dtype=D)
    return (student.relu(), teacher.relu()) if relu else (student, teacher)


def norm(difference: Tensor, distance: str) -> Tensor:
    return difference.abs().sum() if distance == "l1" else difference.square().sum().sqrt()


def naive_pool(features: Tensor, pool: int) -> Tensor:
    batch, channels, height, width = features.shape
    return torch.stack(
        [
            features[:, :, y * pool : (y + 1) * pool, x * pool : (x + 1) * pool].flatten(2).max(2).values
            for y in range(height // pool)
            for x in range(width // pool)
        ],
        2,
    ).view(batch, channels, height // pool, width // pool)


def naive_omni(
    student: Tensor,
    teacher: Tensor,
    pool: int,
    patch: int,
    groups: int,
    temperature: float,
    distance: str,
    negatives: str,
) -> Tensor:
    """METHODS 1.3 by explicit loops over patches, anchors and negatives, differentiable by plain autograd."""
    student, teacher = naive_pool(student, pool), naive_pool(teacher, pool)
    batch, channels, height, width = student.shape
    size = channels // groups
    down, across = height // patch, width // patch
    total = torch.zeros((), dtype=student.dtype)
    for b in range(batch):
        for top in range(0, down * patch, patch):
            for left in range(0, across * patch, patch):
                cells = [(top + i, left + j) for i in range(patch) for j in range(patch)]
                for cell in cells:
                    for m in range(groups):
                        anchor = student[b, m * size : (m + 1) * size, cell[0], cell[1]]
                        terms, positive = [], torch.zeros(())
                        for other in cells:
                            for k in range(groups):
                                vector = teacher[b, k * size : (k + 1) * size, other[0], other[1]]
                                similarity = -norm(anchor - vector, distance) / temperature
                                if other == cell and k == m:
                                    positive = similarity
                                    terms.append(similarity)
                                elif k != m or negatives == "all":
                                    terms.append(similarity)
                        total = total + torch.stack(terms).logsumexp(0) - positive
    return total / (batch * down * patch * across * patch)


def naive_spatial(student: Tensor, teacher: Tensor, pool: int, temperature: float, distance: str) -> Tensor:
    student, teacher = naive_pool(student, pool), naive_pool(teacher, pool)
    batch, _, height, width = student.shape
    total = torch.zeros((), dtype=student.dtype)
    places = [(y, x) for y in range(height) for x in range(width)]
    for b in range(batch):
        for y, x in places:
            similarities = torch.stack(
                [-norm(student[b, :, y, x] - teacher[b, :, v, u], distance) / temperature for v, u in places]
            )
            total = total + similarities.logsumexp(0) - similarities[places.index((y, x))]
    return total / (batch * len(places))


def assert_equal_forms(ours: Loss, naive: Loss, student: Tensor, teacher: Tensor) -> None:
    """Value and gradient in float64 to 1e-10, value in float32 to 1e-5."""
    student = student.clone().requires_grad_()
    results = []
    for form in (ours, naive):
        value = form(student, teacher)
        results.append((value.detach(), torch.autograd.grad(value, student)[0]))
    (value, gradient), (expected, expected_gradient) = results
    assert value.dtype == D
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    narrow = ours(student.detach().float(), teacher.float())
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "pool", "patch", "groups", "temperature", "distance", "negatives"),
    [
        ((1, 4, 2, 2), 1, 2, 2, 0.07, "l1", "cross_group"),
        ((2, 6, 5, 7), 1, 2, 3, 1.0, "l1", "cross_group"),
        ((1, 8, 9, 9), 2, 2, 4, 0.3, "l1", "cross_group"),
        ((2, 3, 7, 4), 1, 3, 1, 0.5, "l1", "cross_group"),
        ((1, 4, 5, 3), 1, 1, 4, 0.07, "l1", "cross_group"),
        ((1, 6, 11, 7), 3, 2, 2, 0.1, "l1", "all"),
        ((2, 4, 3, 5), 1, 2, 2, 0.5, "l2", "cross_group"),
        ((1, 6, 4, 6), 2, 1, 3, 1.0, "l2", "all"),
    ],
)
@pytest.mark.parametrize("relu", [False, True])
def test_omni_equals_the_loops(
    shape: Any,
    pool: int,
    patch: int,
    groups: int,
    temperature: float,
    distance: Any,
    negatives: Any,
    relu: bool,
) -> None:
    student, teacher = pair(shape, 1, relu)
    if relu and distance == "l2":
        student = student + 0.01  # the loops' square root has no derivative at zero
    assert_equal_forms(
        lambda s, t: omni_contrast(
            s,
            t,
            pool=pool,
            patch_size=patch,
            groups=groups,
            temperature=temperature,
            distance=distance,
            negatives=negatives,
        ),
        lambda s, t: naive_omni(s, t, pool, patch, groups, temperature, distance, negatives),
        student,
        teacher,
    )


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 4, 1, 1), 2), ((2, 6, 3, 5), 3), ((1, 8, 5, 3), 8), ((3, 4, 2, 3), 1), ((1, 9, 4, 1), 3)],
)
def test_channel_contrast_is_omni_on_single_cells(shape: Any, groups: int, distance: Any) -> None:
    assert_equal_forms(
        lambda s, t: channel_contrast(s, t, groups=groups, temperature=0.4, distance=distance),
        lambda s, t: naive_omni(s, t, 1, 1, groups, 0.4, distance, "cross_group"),
        *pair(shape, 2),
    )


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize(
    ("shape", "pool"),
    [((1, 3, 1, 1), 1), ((2, 4, 3, 5), 1), ((1, 5, 7, 9), 2), ((3, 2, 5, 4), 2), ((1, 1, 11, 7), 3)],
)
def test_spatial_equals_the_loops(shape: Any, pool: int, distance: Any) -> None:
    assert_equal_forms(
        lambda s, t: spatial_contrast(s, t, pool=pool, temperature=0.4, distance=distance),
        lambda s, t: naive_spatial(s, t, pool, 0.4, distance),
        *pair(shape, 3),
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (3, 2, 7, 1), (1, 5, 3, 3), (4, 4, 5, 2)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_masked_feature_loss_equals_the_loops(shape: tuple[int, ...], reduction: Any) -> None:
    def naive(generated: Tensor, teacher: Tensor) -> Tensor:
        batch, channels, height, width = generated.shape
        total = torch.zeros((), dtype=generated.dtype)
        for b in range(batch):
            for c in range(channels):
                for y in range(height):
                    for x in range(width):
                        total = total + (generated[b, c, y, x] - teacher[b, c, y, x]) ** 2
        return total / batch / (1 if reduction == "sum" else channels * height * width)

    assert_equal_forms(lambda s, t: masked_feature_loss(s, t, reduction=reduction), naive, *pair(shape, 4))


def test_masked_feature_loss_of_a_zero_guess() -> None:
    _, teacher = pair((3, 4, 5, 6))
    zero = torch.zeros_like(teacher)
    assert masked_feature_loss(zero, teacher).item() == pytest.approx(teacher.square().sum().item() / 3)
    # The sum grows with channels and cells, not with the batch; the mean with neither.
    for dim, factor in ((1, 2), (2, 2), (0, 1)):
        twice = torch.cat([teacher, teacher], dim)
        ratio = masked_feature_loss(torch.zeros_like(twice), twice) / masked_feature_loss(zero, teacher)
        assert ratio.item() == pytest.approx(factor)


def test_hand_values() -> None:
    zeros = torch.zeros(2, 32, 16, 16, dtype=D)
    assert omni_contrast(zeros, zeros).item() == pytest.approx(87.756750936, abs=1e-9)
    assert omni_contrast(zeros, zeros, negatives="all").item() == pytest.approx(88.722839111, abs=1e-9)
    student, teacher = pair((1, 4, 8, 8))
    assert omni_contrast(student, teacher, pool=2, groups=1).item() == 0
    cell = torch.tensor([1.0, 0.0], dtype=D).view(1, 2, 1, 1)
    one = omni_contrast(cell, cell, pool=1, patch_size=1, groups=2, temperature=1.0)
    assert one.item() == pytest.approx(0.626523375, abs=1e-9)
    pixels = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=D).view(1, 2, 1, 2)
    value = spatial_contrast(pixels, pixels, pool=1, temperature=1.0)
    assert value.item() == pytest.approx(0.313261688, abs=1e-9)


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
    student, teacher = pair((2, M * SIZE, 4, 4), 5)
    assert omni(*UNCHANGED[name](student, teacher)) == pytest.approx(omni(student, teacher), rel=1e-12)


@pytest.mark.parametrize("name", CHANGED)
def test_omni_depends_on(name: str) -> None:
    student, teacher = pair((2, M * SIZE, 4, 4), 5)
    assert omni(*CHANGED[name](student, teacher)) != pytest.approx(omni(student, teacher), rel=1e-4)


def test_omni_scales_with_temperature_and_has_the_flat_limit() -> None:
    student, teacher = pair((2, M * SIZE, 4, 4), 6)
    expected = omni(student, teacher)
    assert omni(3 * student, 3 * teacher, 3 * TAU) == pytest.approx(expected, rel=1e-12)
    assert omni(student, teacher, 1e9) == pytest.approx(M * math.log(1 + 4 * (M - 1)), rel=1e-6)


def test_a_perfect_student_costs_little_but_not_nothing() -> None:
    student, teacher = pair((1, 32, 4, 4), 7)
    options: dict[str, Any] = {"pool": 1, "groups": 2, "temperature": 1.0}
    perfect, random = omni_contrast(teacher, teacher, **options), omni_contrast(student, teacher, **options)
    assert 0 < perfect < 0.1 * random


def test_pooling_takes_the_maximum_and_floors() -> None:
    student, teacher = pair((1, 4, 9, 9), 8)
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
    student, teacher = pair((1, 2, 45, 45), 9)
    whole = omni_contrast(student, teacher, pool=1, groups=2)
    first = omni_contrast(student[..., :44, :44], teacher[..., :44, :44], pool=1, groups=2)
    assert whole.item() == first.item()


def test_half_precision_maps_are_compared_wide() -> None:
    student, teacher = (x.bfloat16() for x in pair((1, 32, 16, 16), 10))
    expected = omni_contrast(student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        for value in (
            omni_contrast(student, teacher),
            channel_contrast(student, teacher),
            spatial_contrast(student, teacher),
            masked_feature_loss(student, teacher),
        ):
            assert value.dtype == torch.float32 and value.isfinite()
        assert omni_contrast(student, teacher).equal(expected)


@pytest.mark.parametrize("loss", [omni_contrast, channel_contrast, spatial_contrast, masked_feature_loss])
def test_the_teacher_gets_no_gradient_and_halves_average(loss: Loss) -> None:
    student, teacher = pair((2, 16, 16, 16), 11)
    student.requires_grad_()
    teacher.requires_grad_()
    whole = loss(student, teacher)
    whole.backward()
    assert teacher.grad is None and student.grad is not None
    halves = [loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(2)]
    assert sum(halves) / 2 == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "pool 0 .* at least 1"),
        ({"patch_size": 0}, "patch_size 0 .* at least 1"),
        ({"pool": 5}, "feature map is 16x16, and pool 5 with patch_size 4 needs a map of 20x20"),
        ({"groups": 5}, "5 groups do not divide the 16 channels"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"distance": "L1"}, "unknown distance 'L1'; valid: l1, l2"),
        ({"negatives": "cross_groups"}, "did you mean 'cross_group'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    maps = torch.zeros(1, 16, 16, 16)
    with pytest.raises(UserError, match=message):
        omni_contrast(maps, maps, **options)


def test_other_refusals() -> None:
    maps = torch.zeros(1, 16, 16, 16)
    with pytest.raises(UserError, match="pool 0"):
        spatial_contrast(maps, maps, pool=0)
    with pytest.raises(UserError, match="unknown reduction 'avg'"):
        masked_feature_loss(maps, maps, reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"16, 16, 16\), the teacher's \(1, 16, 16, 15"):
        masked_feature_loss(maps, maps[..., :15])


class TestContract(MethodContract):
    name: ClassVar[str] = "afdcd"
    options: ClassVar[dict[str, Any]] = {
        "mask_ratio": 0.5,
        "pool": 1,
        "patch_size": 2,
        "groups": 4,
        "temperature": 1.0,
        "distance": "l1",
        "negatives": "cross_group",
        "reduction": "sum",
    }
    falling: ClassVar[tuple[str, ...]] = ("masked_feature", "omni_contrast")

    def test_masks_follow_the_keys(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        first = objective(student, teacher, target())
        other = objective(student, teacher, target()._replace(keys=torch.arange(50, 50 + BATCH)))
        assert all(not first[name].equal(other[name]) for name in first)

    def test_crop_smaller_than_a_patch_says_how_large_it_must_be(self) -> None:
        self.options = {**type(self).options, "pool": 3, "patch_size": 3}
        with pytest.raises(UserError, match=r"6x8, from a crop of 48x64 .* at least 72x72 pixels"):
            self.build()(output(STUDENT, 1), output(TEACHER, 2), target())

    def test_groups_must_divide_the_teachers_channels(self) -> None:
        spec = ChannelSpec((4, 6), 4, CLASSES)
        options = {**self.options, "groups": 4}
        with pytest.raises(UserError, match="4 groups do not divide the 6 channels"):
            AfDCD(Context(spec, spec, 255, None), **options)


class TestMeanL2Contract(TestContract):
    options: ClassVar[dict[str, Any]] = {
        **TestContract.options,
        "distance": "l2",
        "negatives": "all",
        "reduction": "mean",
    }
