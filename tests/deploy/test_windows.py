from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deploy.windows import probabilities, resize_maps, scaled, slide, softmax, starts, whole

RNG = np.random.default_rng(0)


class Local:
    """An engine whose logits at a pixel depend on that pixel alone, so that windows must not matter."""

    calls = 0

    def logits(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        values = images.astype(np.float32) / 32
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


class Sided:
    """An engine that favours the left half of what it sees: class 0 there, class 1 at the right."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        batch, height, width, _ = images.shape
        ramp = np.linspace(1, -1, width, dtype=np.float32)
        found = np.zeros((batch, 2, height, width), dtype=np.float32)
        found[:, 0], found[:, 1] = ramp, -ramp
        return found


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(5, 9), (7, 12), (13, 31), (3, 4), (6, 1)])
def test_resizing_is_torchs(size: tuple[int, int]) -> None:
    maps = RNG.normal(size=(3, 7, 12)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize_maps(maps, size), expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "crop", "stride", "expected"),
    [(10, 4, 3, [0, 3, 6]), (10, 4, 4, [0, 4, 6]), (4, 4, 3, [0]), (3, 4, 2, [0]), (5, 4, 3, [0, 1])],
)
def test_windows_cover_everything_and_end_at_the_end(
    length: int, crop: int, stride: int, expected: list[int]
) -> None:
    assert starts(length, crop, stride) == expected


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(9, 17), (4, 6), (3, 20), (4, 3)])
def test_windows_do_not_change_a_local_engine(size: tuple[int, int], flip: bool) -> None:
    image = picture(*size)
    found = slide(Local(), image, (4, 6), (3, 4), flip=flip)
    expected = softmax(Local().logits(image[None])[0])
    assert found.shape == (3, *size)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_overlapping_windows_are_averaged_as_probabilities() -> None:
    """One row of width 3, windows of 2: the middle pixel is right in one window and left in the other."""
    found = slide(Sided(), picture(1, 3), (1, 2), (1, 1), flip=False)
    left = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(found[0, 0], [left, 0.5, 1 - left], atol=1e-6)


def test_flipping_averages_with_the_mirrored_view() -> None:
    np.testing.assert_allclose(probabilities(Sided(), picture(2, 5), flip=True), 0.5, atol=1e-6)


def test_the_whole_view_goes_through_the_geometry_and_back() -> None:
    image = np.full((10, 20, 3), 7, dtype=np.uint8)
    image[:, :10, 0] = 200
    for mode in ("stretch", "letterbox"):
        found = whole(Local(), image, (10, 16), mode, flip=False)  # type: ignore[arg-type]
        assert found.shape == (3, 10, 20)
        assert (found.argmax(0)[:, :9] == 0).all()
        np.testing.assert_allclose(found[:, :, 12:], 1 / 3, atol=1e-5)


def test_a_scaled_image() -> None:
    image = picture(10, 20)
    assert scaled(image, 1) is image and scaled(image, 0.5).shape == (5, 10, 3)
