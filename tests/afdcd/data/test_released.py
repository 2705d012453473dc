from __future__ import annotations

import numpy as np
import pytest
import torch

from afdcd.config import AugmentConfig, Normalisation
from afdcd.data.loader import training_batches
from afdcd.data.manifest import Manifest
from afdcd.data.transforms import augment
from afdcd.models.segmenter import Normalise

MEAN = (122.67891434, 116.66876762, 104.00698793)
"""Of the released code, as red, green, blue."""
CONFIG = AugmentConfig(
    order="released",
    crop=(24, 32),
    scale=(0.5, 2.0),
    fill=MEAN,
    flip=0.5,
    balanced=0.0,
    brightness=0,
    contrast=0,
    saturation=0,
)

IDENTITY = np.arange(256, dtype=np.uint8)
OPENCV = {
    0.7: [[126, 154, 205], [122, 172, 142]],
    1.6: [
        [95, 110, 134, 174, 201, 215],
        [144, 158, 172, 134, 140, 189],
        [196, 213, 221, 92, 69, 152],
        [87, 146, 217, 175, 149, 141],
        [33, 112, 215, 216, 190, 135],
    ],
}


def change(**values) -> AugmentConfig:
    return CONFIG.model_copy(update=values)


def linear(image: np.ndarray, height: int, width: int, factor: float) -> np.ndarray:
    """Bilinear between the four nearest pixels, one output pixel after the other."""
    out = np.empty((height, width, 3))
    for place in np.ndindex(height, width):
        exact = [
            min(max((at + 0.5) / factor - 0.5, 0.0), length - 1.0)
            for at, length in zip(place, image.shape[:2], strict=True)
        ]
        (y, dy), (x, dx) = ((int(at), at - int(at)) for at in exact)
        corners = np.pad(image.astype(float), ((0, 1), (0, 1), (0, 0)), "edge")[y : y + 2, x : x + 2]
        out[place] = np.array([1 - dy, dy]) @ np.einsum("yxc,x->yc", corners, np.array([1 - dx, dx]))
    return out


def plain(image, labels, label_map, drawn):
    """Scale the whole, map all labels, subtract the mean from blue-green-red, pad, crop, mirror."""
    factor = 0.5 + int(drawn[0] * 16) / 10.0
    height, width = (round(length * factor) for length in labels.shape)
    large = linear(image, height, width, factor)[..., ::-1] - MEAN[::-1]
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1.0 / factor)).astype(int), old - 1)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    ids = label_map[labels][rows][:, columns]
    pad = [(0, max(0, 24 - height)), (0, max(0, 32 - width))]
    large, ids = np.pad(large, (*pad, (0, 0))), np.pad(ids, pad, constant_values=255)
    top, left = int(drawn[1] * (len(ids) - 23)), int(drawn[2] * (ids.shape[1] - 31))
    step = -1 if drawn[3] < 0.5 else 1
    crop = np.s_[top : top + 24, left : left + 32]
    return large[crop][:, ::step], ids[crop][:, ::step]


@pytest.mark.parametrize("size", [(26, 40), (13, 70)])
def test_normalised_crop_is_that_of_the_released_order(size) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = rng.integers(0, 12, size, dtype=np.uint8)
    label_map = np.array([3, 1, 255, 0, *[2] * 252], dtype=np.uint8)
    settings = Normalisation(order="bgr", mean=MEAN[::-1], std=(1, 1, 1))
    padded = 0
    for seed in range(4):
        drawn = np.random.default_rng(seed).random(7)
        out, ids = augment(image, labels, label_map, CONFIG, np.random.default_rng(seed))
        assert out.dtype == np.float32 and ids.dtype == np.uint8
        normalised = Normalise(settings)(torch.from_numpy(out.copy()).permute(2, 0, 1)[None])[0]
        expected, expected_ids = plain(image, labels, label_map, drawn)
        assert (ids == expected_ids).all()
        off = np.abs(normalised.permute(1, 2, 0).numpy() - expected)
        # Values are rounded to whole numbers, and cut twice at a 16th on the way.
        assert off.max() < 0.85 and off.mean() < 0.3
        padded += int((expected == 0).all(-1).sum())
    assert padded > 100


def test_values_are_those_of_opencv() -> None:
    """cv2.resize(image, None, fx=f, fy=f, interpolation=cv2.INTER_LINEAR), OpenCV 4.10, of a 3x4 image."""
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 1), dtype=np.uint8).repeat(3, 2)
    for factor, expected in OPENCV.items():
        config = change(scale=(factor, factor), crop=np.shape(expected), flip=0.0)
        out, _ = augment(image, image[..., 0], IDENTITY, config, np.random.default_rng(0))
        assert out[..., 0].tolist() == expected


def test_scales_are_the_sixteen_steps() -> None:
    """A ramp of one level a column tells its scale by its slope."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    config = change(crop=(24, 96), flip=0.0)
    slopes = set()
    for seed in range(150):
        out, _ = augment(ramp, ramp[..., 0], IDENTITY, config, np.random.default_rng(seed))
        slopes.add(round(10 * 95 / float(out[0, 95, 0] - out[0, 0, 0])))
    assert slopes == set(range(5, 21))


def test_batches_are_float_and_the_same_by_workers(prepared) -> None:
    settings = dict(augment=CONFIG, batch_size=4, seed=3, start=0, stop=2, rank=0, world_size=1)
    first, second = (
        list(training_batches(Manifest.load(prepared), workers=workers, **settings)) for workers in (0, 1)
    )
    assert first[0].images.dtype == torch.float32 and first[0].labels.dtype == torch.uint8
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
