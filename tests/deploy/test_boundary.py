from __future__ import annotations

import numpy as np
import pytest

from deploy.boundary import BoundaryCounts, band

IGNORE = 255


def naive_band(mask: list[list[bool]], distance: int) -> set[tuple[int, int]]:
    """Pixels of the mask with a pixel outside of it, or outside of the image, at most `distance` away."""
    height, width = len(mask), len(mask[0])

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and mask[y][x]

    reach = range(-distance, distance + 1)
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y][x] and not all(inside(y + dy, x + dx) for dy in reach for dx in reach)
    }


def blobs(seed: int, classes: int = 3, height: int = 14, width: int = 17) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.kron(random.integers(0, classes, (4, 5)), np.ones((4, 4), dtype=int))[:height, :width].astype(
        np.uint8
    )


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_the_band_is_the_naive_one(distance: int) -> None:
    for seed in range(4):
        mask = blobs(seed, 2) == 1
        found = band(mask, distance)
        assert {(int(y), int(x)) for y, x in np.argwhere(found)} == naive_band(mask.tolist(), distance)


def test_counts_over_a_set_are_the_naive_ones() -> None:
    counts = BoundaryCounts(4, IGNORE, ratio=0.1)
    hits, unions = [0] * 4, [0] * 4
    for seed in range(3):
        labels, prediction = blobs(seed), blobs(seed + 10)
        labels[2:5, 3:9] = IGNORE
        counts.update(prediction, labels)
        distance = round(0.1 * (14**2 + 17**2) ** 0.5)
        for number in range(4):
            truth = naive_band((labels == number).tolist(), distance)
            seen = ((prediction == number) & (labels != IGNORE)).tolist()
            guess = naive_band(seen, distance)
            hits[number] += len(truth & guess)
            unions[number] += len(truth | guess)
    assert counts.intersection.tolist() == hits and counts.union.tolist() == unions
    assert np.isnan(counts.iou()[3]) and counts.iou()[0] == hits[0] / unions[0]


def test_a_thick_error_inside_is_not_seen_and_a_shifted_contour_is() -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[8:32, 8:32] = 1
    shifted = np.roll(labels, 1, axis=1)
    same, moved = BoundaryCounts(2, IGNORE), BoundaryCounts(2, IGNORE)
    same.update(labels, labels)
    moved.update(shifted, labels)
    assert same.iou().tolist() == [1.0, 1.0]
    area = (labels & shifted).sum() / (labels | shifted).sum()
    assert moved.iou()[1] < 0.75 < area
