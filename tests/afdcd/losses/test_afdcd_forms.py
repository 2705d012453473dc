from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.forms import D, assert_equal_forms, assert_gradcheck, maps
from torch import Tensor

from afdcd.losses.afdcd import channel_contrast, masked_feature_loss, omni_contrast, spatial_contrast

Loss = Callable[[Tensor, Tensor], Tensor]


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
    student, teacher = maps(shape, shape, seed=1, relu=relu)
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
        *maps(shape, shape, seed=2),
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
        *maps(shape, shape, seed=3),
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

    assert_equal_forms(
        lambda s, t: masked_feature_loss(s, t, reduction=reduction), naive, *maps(shape, shape, seed=4)
    )


def test_masked_feature_loss_of_a_zero_guess() -> None:
    (teacher,) = maps((3, 4, 5, 6))
    zero = torch.zeros_like(teacher)
    assert masked_feature_loss(zero, teacher).item() == pytest.approx(teacher.square().sum().item() / 3)
    # The sum grows with channels and cells, not with the batch; the mean with neither.
    for dim, factor in ((1, 2), (2, 2), (0, 1)):
        twice = torch.cat([teacher, teacher], dim)
        ratio = masked_feature_loss(torch.zeros_like(twice), twice) / masked_feature_loss(zero, teacher)
        assert ratio.item() == pytest.approx(factor)


def test_hand_values() -> None:
    zeros = torch.zeros(2, 32, 16, 16, dtype=D)
    for temperature in (0.07, 2.0):
        value = omni_contrast(zeros, zeros, temperature=temperature)
        assert value.item() == pytest.approx(87.756750936, abs=1e-9)
    assert omni_contrast(zeros, zeros, negatives="all").item() == pytest.approx(88.722839111, abs=1e-9)
    student, teacher = maps((1, 4, 8, 8), (1, 4, 8, 8))
    assert omni_contrast(student, teacher, pool=2, groups=1).item() == 0
    cell = torch.tensor([1.0, 0.0], dtype=D).view(1, 2, 1, 1)
    one = omni_contrast(cell, cell, pool=1, patch_size=1, groups=2, temperature=1.0)
    assert one.item() == pytest.approx(0.626523375, abs=1e-9)
    assert channel_contrast(cell, cell, groups=2, temperature=1.0).item() == one.item()
    pixels = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=D).view(1, 2, 1, 2)
    value = spatial_contrast(pixels, pixels, pool=1, temperature=1.0)
    assert value.item() == pytest.approx(0.313261688, abs=1e-9)


def loss_with(loss: Any, **options: Any) -> Loss:
    return lambda s, t: loss(s, t, **options)


CHECKED = {
    "omni, l1": loss_with(omni_contrast, pool=2, patch_size=2, groups=2, temperature=0.5),
    "omni, l2": loss_with(omni_contrast, pool=1, patch_size=2, groups=2, distance="l2", negatives="all"),
    "channel, l1": loss_with(channel_contrast, groups=2, temperature=0.5),
    "channel, l2": loss_with(channel_contrast, groups=4, temperature=0.5, distance="l2"),
    "spatial, l1": loss_with(spatial_contrast, pool=2, temperature=0.5),
    "spatial, l2": loss_with(spatial_contrast, pool=1, temperature=0.5, distance="l2"),
    "masked, sum": masked_feature_loss,
    "masked, mean": loss_with(masked_feature_loss, reduction="mean"),
}


@pytest.mark.parametrize("name", CHECKED)
def test_gradcheck(name: str) -> None:
    assert_gradcheck(CHECKED[name], *maps((1, 4, 4, 5), (1, 4, 4, 5), seed=5))


@pytest.mark.parametrize("closeness", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_contrasts_near_the_teacher_keep_their_bound_in_float32(distance: Any, closeness: float) -> None:
    # The log of a sum just above 1: an anchor, of which a cell has one for each group, keeps 1e-7.
    teacher, noise = maps((2, 16, 5, 7), (2, 16, 5, 7), seed=6)
    student, teacher = (x.float() for x in (teacher + closeness * noise, teacher))
    for loss, anchors in (
        (loss_with(omni_contrast, pool=1, groups=4, distance=distance), 4),
        (loss_with(channel_contrast, groups=4, distance=distance), 4),
        (loss_with(spatial_contrast, pool=1, distance=distance), 1),
    ):
        expected = loss(student.double(), teacher.double()).item()
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6, abs=1e-7 * anchors)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_masked_feature_loss_near_the_teacher_does_not_cancel(reduction: Any) -> None:
    teacher, noise = maps((2, 5, 3, 7), (2, 5, 3, 7), seed=7)
    guess, teacher = (x.float() for x in (100 + teacher + 1e-3 * noise, 100 + teacher))
    expected = masked_feature_loss(guess.double(), teacher.double(), reduction=reduction).item()
    assert masked_feature_loss(guess, teacher, reduction=reduction).item() == pytest.approx(
        expected, rel=1e-6
    )
