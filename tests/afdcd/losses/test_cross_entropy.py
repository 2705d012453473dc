from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.losses.cross_entropy import cross_entropy, upsampled


def sample(map_: Tensor, y: float, x: float) -> float:
    """Bilinear interpolation of (h, w) at half-pixel coordinates, clamped at the border."""
    height, width = map_.shape
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = map_[top, left] * (1 - dx) + map_[top, right] * dx
    lower = map_[bottom, left] * (1 - dx) + map_[bottom, right] * dx
    return float(upper * (1 - dy) + lower * dy)


def naive(logits: Tensor, labels: Tensor, ignore_index: int, weights: list[float] | None) -> float:
    batch, classes, h, w = logits.shape
    _, height, width = labels.shape
    total = norm = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(labels[b, y, x])
                if label == ignore_index:
                    continue
                at = ((y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5)
                z = [sample(logits[b, k], *at) for k in range(classes)]
                share = 1.0 if weights is None else weights[label]
                total += share * (math.log(sum(math.exp(v - max(z)) for v in z)) + max(z) - z[label])
                norm += share
    return total / norm


@pytest.mark.parametrize("ignore_index", [255, 0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 2, 1, 1), (3, 5)),
        ((2, 3, 2, 3), (5, 7)),
        ((1, 4, 3, 3), (6, 6)),
        ((2, 5, 4, 3), (4, 3)),
        ((3, 3, 2, 1), (9, 2)),
    ],
)
def test_equals_the_formula(shape: tuple[int, ...], size: tuple[int, int], weighted: bool, ignore_index: int):
    draw = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=draw, dtype=torch.uint8)
    labels[:, 0, 0] = ignore_index
    labels[:, -1, -1] = 1
    weights = [0.5 + k for k in range(shape[1])] if weighted else None
    tensor = None if weights is None else torch.tensor(weights)
    expected = naive(logits, labels, ignore_index, weights)
    wide = cross_entropy(logits, labels, ignore_index=ignore_index, class_weights=tensor)
    narrow = cross_entropy(logits.float(), labels, ignore_index=ignore_index, class_weights=tensor)
    assert wide.item() == pytest.approx(expected, rel=1e-10)
    assert narrow.item() == pytest.approx(expected, rel=1e-5)


def test_weighted_mean_and_gradient_are_torchs() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4))
    weights = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)
    ours = cross_entropy(logits, labels, ignore_index=255, class_weights=weights)
    theirs = F.cross_entropy(logits, labels, weights)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_nothing_labelled_costs_zero_and_has_a_graph() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.full((1, 4, 4), 255)
    for weights in (None, torch.ones(3)):
        loss = cross_entropy(logits, labels, ignore_index=255, class_weights=weights)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0 and not gradient.any()


def test_half_precision_is_added_up_wide() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.randint(0, 3, (2, 5, 4), generator=torch.Generator().manual_seed(1))
    found = cross_entropy(logits, labels, ignore_index=255, class_weights=None)
    assert found.dtype == torch.float32
    assert found.equal(cross_entropy(logits.float(), labels, ignore_index=255, class_weights=None))


def test_autocast_does_not_narrow() -> None:
    logits = torch.randn(1, 3, 2, 2)
    labels = torch.randint(0, 3, (1, 4, 4))
    expected = cross_entropy(logits, labels, ignore_index=255, class_weights=None)
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_entropy(logits, labels, ignore_index=255, class_weights=None).equal(expected)


@pytest.mark.parametrize("size", [(7, 9), (24, 40), (3, 5), (2, 11)])
def test_products_upsample_as_the_operator_does(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    theirs = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    ours, weight = upsampled(logits, size), torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    found = [torch.autograd.grad((x * weight).sum(), logits)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*found)
