from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from afdcd.config import AugmentConfig
from afdcd.data.transforms import augment, photometric

PLAIN = AugmentConfig(crop=(24, 32), scale=(1, 1), flip=0, brightness=0, contrast=0, saturation=0)
IDENTITY = np.arange(256, dtype=np.uint8)


def picture(height: int, width: int, seed: int = 0):
    """An image whose red channel repeats its labels, so that the two can be compared after any geometry."""
    blocks = np.random.default_rng(seed).integers(0, 8, ((height + 3) // 4, (width + 3) // 4), dtype=np.uint8)
    labels = np.kron(blocks, np.ones((4, 4), dtype=np.uint8))[:height, :width]
    image = np.stack([labels * 30, np.full_like(labels, 90), 255 - labels * 30], axis=-1)
    return image, labels


def ramps(height: int, width: int):
    """Red grows by 4 a column and green by 4 a row; the labels are the red channel."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8) * 4
    return np.stack([columns, rows, rows], axis=-1), columns


def run(config: AugmentConfig, *, size=(24, 32), seed=0, label_map=IDENTITY):
    return augment(*picture(*size), label_map, config, np.random.default_rng(seed))


def change(**values) -> AugmentConfig:
    return PLAIN.model_copy(update=values)


def test_switched_off_and_at_full_size_nothing_changes() -> None:
    image, labels = picture(24, 32)
    out_image, out_labels = run(PLAIN)
    assert (out_image == image).all() and (out_labels == labels).all()
    assert out_image.dtype == out_labels.dtype == np.uint8


def test_crop_is_a_window_and_moves_with_the_draw() -> None:
    image, labels = picture(40, 60)
    seen = set()
    for seed in range(8):
        out_image, out_labels = run(PLAIN, size=(40, 60), seed=seed)
        places = [
            (y, x)
            for y in range(17)
            for x in range(29)
            if (labels[y : y + 24, x : x + 32] == out_labels).all()
            and (image[y : y + 24, x : x + 32] == out_image).all()
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 4


def test_crop_reaches_every_edge() -> None:
    image, labels = ramps(25, 34)
    corners = set()
    for seed in range(60):
        out, _ = augment(image, labels, IDENTITY, PLAIN, np.random.default_rng(seed))
        corners.add((out[0, 0, 1] // 4, out[0, 0, 0] // 4))
    assert corners == {(row, column) for row in range(2) for column in range(3)}


def test_labels_follow_the_image_through_scale_crop_and_flip() -> None:
    config = change(scale=(0.6, 2.0), flip=0.5)
    image, columns = ramps(40, 60)
    for labels, channel in ((columns, 0), (image[..., 1], 1)):
        for seed in range(20):
            out_image, out_labels = augment(image, labels, IDENTITY, config, np.random.default_rng(seed))
            inside = out_labels != 255
            off = np.abs(out_image[..., channel].astype(int) - out_labels)[inside]
            assert inside.mean() > 0.5 and off.max() <= 4


def test_flip_mirrors_both() -> None:
    image, labels = picture(24, 32)
    out_image, out_labels = run(change(flip=1.0))
    assert (out_image == image[:, ::-1]).all() and (out_labels == labels[:, ::-1]).all()


def test_flip_happens_as_often_as_asked() -> None:
    labels = picture(24, 32)[1]
    flips = [bool((run(change(flip=0.3), seed=seed)[1] == labels[:, ::-1]).all()) for seed in range(300)]
    assert 0.2 < np.mean(flips) < 0.4


def test_scale_enlarges() -> None:
    _, labels = run(change(scale=(2, 2)), size=(40, 60), seed=1)
    _, plain = run(PLAIN, size=(40, 60), seed=1)
    edges = [(np.diff(array.astype(int)) != 0).mean() for array in (labels, plain)]
    assert edges[0] == pytest.approx(edges[1] / 2, rel=0.3)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_what_the_scaled_image_leaves_empty_is_black_and_ignored(flip) -> None:
    image, labels = run(change(scale=(0.5, 0.5), flip=flip, brightness=0.5, contrast=0.5))
    assert (labels[:12, :16] != 255).all() and image[:12, :16].any(axis=-1).all()
    assert (labels[12:] == 255).all() and (labels[:, 16:] == 255).all()
    assert not image[12:].any() and not image[:, 16:].any()


def test_image_smaller_than_the_crop_on_one_axis_only() -> None:
    image, labels = run(PLAIN, size=(10, 50))
    assert (labels[:10] != 255).all() and (labels[10:] == 255).all()


def test_raw_ids_become_train_ids() -> None:
    label_map = np.full(256, 255, dtype=np.uint8)
    label_map[5] = 1
    labels = picture(24, 32)[1]
    assert (run(PLAIN, label_map=label_map)[1] == np.where(labels == 5, 1, 255)).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_jitter_changes_colours_and_no_label(name) -> None:
    image, labels = picture(24, 32)
    out_image, out_labels = run(change(**{name: 0.5}))
    assert (out_image != image).any() and (out_labels == labels).all()


def test_switching_one_thing_off_changes_no_other() -> None:
    _, everything = run(change(scale=(0.7, 1.6), flip=0.5, brightness=0.3), size=(40, 60), seed=4)
    _, less = run(change(scale=(0.7, 1.6), flip=0.5), size=(40, 60), seed=4)
    assert (everything == less).all()


def test_photometric_by_the_formula() -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (9, 7, 3), dtype=np.uint8)
    brightness, contrast, saturation = 1.2, 0.7, 0.5
    grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    less_colour = grey + saturation * (pixels - grey)
    expected = brightness * (contrast * less_colour + (1 - contrast) * grey.mean())
    out = np.asarray(photometric(Image.fromarray(pixels), brightness, contrast, saturation))
    assert np.abs(out - expected.clip(0, 255)).max() < 1.5


def test_photometric_clips_and_does_not_wrap() -> None:
    white = Image.new("RGB", (4, 4), (250, 250, 250))
    assert np.asarray(photometric(white, 1.5, 1.0, 1.0)).min() == 255
    assert np.asarray(photometric(white, 1.0, 1.0, 1.0)).max() == 250
