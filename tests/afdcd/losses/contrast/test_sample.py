from __future__ import annotations

import pytest
import torch
from torch import Tensor

from afdcd.losses.afdcd import omni_contrast
from afdcd.losses.contrast.sample import drawn_patches, taken_patches
from afdcd.losses.randomness import uniform


def naive_drawn(keys: Tensor, size: tuple[int, int], side: int, count: int) -> list[list[tuple[int, int]]]:
    """The (line, column) of the patches with the smallest numbers of each image, in the map's order."""
    places = [(y, x) for y in range(size[0] // side) for x in range(size[1] // side)]
    found = []
    for numbers in uniform(-1 - keys, len(places)).tolist():
        smallest = sorted(range(len(places)), key=lambda i: numbers[i])[:count]
        found.append([places[i] for i in sorted(smallest)])
    return found


def naive_taken(features: Tensor, drawn: list[list[tuple[int, int]]], side: int) -> Tensor:
    images = []
    for image, places in zip(features, drawn, strict=True):
        cut = [image[:, y * side : (y + 1) * side, x * side : (x + 1) * side] for y, x in places]
        images.append(torch.cat(cut, 2))
    return torch.stack(images)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("size", "side", "fraction", "count"),
    [
        ((9, 13), 3, 0.5, 6),
        ((4, 6), 2, 0.3, 2),
        ((5, 7), 5, 0.2, 1),
        ((8, 8), 2, 0.01, 1),
        ((6, 4), 2, 1.0, 6),
    ],
)
def test_equals_the_loops(size: tuple[int, int], side: int, fraction: float, count: int, last: bool) -> None:
    keys = torch.tensor([4, 2**62 + 1, 9])
    features = torch.randn(3, 5, *size, dtype=torch.float64)
    features = features.to(memory_format=torch.channels_last) if last else features
    features.requires_grad_()
    drawn, expected = drawn_patches(keys, features, side, fraction), naive_drawn(keys, size, side, count)
    assert drawn.tolist() == [[y * (size[1] // side) + x for y, x in places] for places in expected]
    taken, wanted = taken_patches(features, drawn, side), naive_taken(features, expected, side)
    assert taken.equal(wanted)
    slopes = torch.randn_like(wanted)
    (one,), (other,) = (torch.autograd.grad((x * slopes).sum(), features) for x in (taken, wanted))
    assert one.equal(other)


def test_every_patch_is_drawn_alike_and_apart_from_the_mask() -> None:
    keys, features = torch.arange(3000), torch.zeros(3000, 1, 4, 6)
    drawn = drawn_patches(keys, features, 2, 0.5)
    assert drawn.flatten().bincount().tolist() == pytest.approx([1500] * 6, abs=4 * (3000 * 0.25) ** 0.5)
    masked = uniform(keys, 6).argsort(1)[:, :3].sort(1).values
    assert (drawn == masked).all(1).float().mean().item() == pytest.approx(1 / 20, abs=0.016)


@pytest.mark.parametrize("pool", [1, 2])
def test_the_mean_over_all_patches_is_the_contrast_of_the_map(pool: int) -> None:
    """An estimate without bias: each patch by itself counts as the whole map does."""
    side = 3 * pool
    student, teacher = (torch.randn(2, 8, 2 * side + 1, 3 * side, dtype=torch.float64) for _ in range(2))
    parts = []
    for patch in range(6):
        cut = [taken_patches(x, torch.full((2, 1), patch), side) for x in (student, teacher)]
        parts.append(omni_contrast(*cut, pool=pool, patch_size=3, groups=4))
    whole = omni_contrast(student, teacher, pool=pool, patch_size=3, groups=4)
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-12)
