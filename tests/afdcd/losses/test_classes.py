from __future__ import annotations

import pytest
import torch

from afdcd.losses.classes import class_means, labels_on_grid, memberships


@pytest.mark.parametrize(
    ("pixels", "cells"),
    [((1, 1), (1, 1)), ((48, 64), (6, 8)), ((7, 5), (3, 4)), ((5, 9), (5, 2)), ((3, 4), (7, 9))],
)
def test_labels_by_nearest_neighbour(pixels: tuple[int, int], cells: tuple[int, int]) -> None:
    labels = torch.randint(0, 200, (2, *pixels))
    small = labels_on_grid(labels, cells)
    assert small.shape == (2, *cells)
    for i in range(cells[0]):
        for j in range(cells[1]):
            expected = labels[:, i * pixels[0] // cells[0], j * pixels[1] // cells[1]]
            assert small[:, i, j].equal(expected)


@pytest.mark.parametrize("ignore_index", [255, 0, -1])
def test_means_by_image_and_class(ignore_index: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5)
    labels = torch.tensor([ignore_index, 1, 7, 254])[torch.randint(0, 4, (2, 4, 5))]
    labels[0, 2, 3] = 99  # a class of one cell
    means = class_means(features, memberships(labels, ignore_index, features.dtype))
    assert means.shape == (2, 256, 3)
    for b in range(2):
        for k in range(256):
            found = [
                features[b, :, y, x]
                for y in range(4)
                for x in range(5)
                if labels[b, y, x] == k and k != ignore_index
            ]
            expected = sum(found) / len(found) if found else torch.zeros(3)
            torch.testing.assert_close(means[b, k], expected)
