from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from afdcd.config import AugmentConfig
from afdcd.data import transforms
from afdcd.data.transforms import augment, photometric, span
from afdcd.native import kernels

PLAIN = AugmentConfig(
    order="window",
    crop=(24, 32),
    scale=(1, 1),
    fill=(0, 0, 0),
    flip=0,
    balanced=0.0,
    brightness=0,
    contrast=0,
    saturation=0,
)
needs_kernels = pytest.mark.skipif(not kernels.has_kernels(), reason=kernels.loaded().reason)
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


def scaled_whole(image, factor: float):
    """The plain form, scaled as a whole."""
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


SIZES = [(24, 32), (61, 83), (20, 140), (90, 30)]


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_a_window_of_whole_pixels_resized(size) -> None:
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = rng.integers(0, 19, size, dtype=np.uint8)
    for seed in range(60):
        draws = np.random.default_rng(seed).random(7)
        factor = 0.4 + draws[0] * 1.9
        config = change(scale=(0.4, 2.3))
        out_image, out_labels = augment(image, labels, IDENTITY, config, np.random.default_rng(seed))
        top, left = (
            span(length, crop, factor, drawn)
            for length, crop, drawn in zip(size, config.crop, draws[1:3], strict=True)
        )
        window = np.s_[top.start : top.start + top.length, left.start : left.start + left.length]
        expected = Image.fromarray(image[window]).resize((left.out, top.out), Image.Resampling.BILINEAR)
        rows, columns = (
            axis.start + ((np.arange(axis.out) + 0.5) * axis.length / axis.out).astype(int)
            for axis in (top, left)
        )
        inside = np.s_[: top.out, : left.out]
        assert (out_labels[inside] == labels[rows][:, columns]).all()
        assert np.abs(out_image[inside].astype(int) - np.asarray(expected)).max() <= 1
        assert (out_labels != 255).sum() == top.out * left.out


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_a_crop_lies_in_memory_pixel_by_pixel(size, flip: int) -> None:
    """Else all that comes after it, and colour jitter above all, reads its three planes apart."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, 19, size, dtype=np.uint8)
    crop, _ = augment(*whole, IDENTITY, change(flip=flip, scale=(1.8, 2.3)), rng)
    assert crop.shape == (24, 32, 3) and crop.flags.c_contiguous


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_that_of_the_whole_image_scaled_but_for_about_a_pixel(size) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)  # one grey level a source pixel
    image = np.stack([columns, rows, rows], axis=-1)
    for seed in range(40):
        draws = np.random.default_rng(seed).random(7)
        factor = 0.4 + draws[0] * 1.9
        out, labels = augment(
            image, image[..., 0], IDENTITY, change(scale=(0.4, 2.3)), np.random.default_rng(seed)
        )
        whole = scaled_whole(image, factor)
        top, left = (
            int(drawn * (max(0, length - crop) + 1))
            for drawn, length, crop in zip(draws[1:3], whole.shape, (24, 32), strict=False)
        )
        plain = whole[top : top + 24, left : left + 32]
        inside = out[: plain.shape[0], : plain.shape[1]].astype(int)
        assert (labels != 255).sum() == plain[..., 0].size
        middle = np.s_[2:-2, 2:-2]  # the edges of image and window, where there is nothing to smooth with
        assert np.abs(inside - plain)[middle].max() <= 3, "a scaled pixel is up to 2.5 of the source"


def test_every_place_is_as_likely() -> None:
    """The law of the plain form: scale uniform, then all places alike."""
    drawn = np.random.default_rng(0).random(30_000)
    counts = np.bincount([span(40, 32, 1.25, position).start for position in drawn], minlength=15)
    assert len(counts) == 40 - 26 + 1 and span(40, 32, 1.25, 0.0).length == 26
    assert ((counts - 2000) ** 2 / 2000).sum() < 36.1  # chi-square, 14 degrees, p = 0.001


def test_fill_is_what_surrounds_a_small_image() -> None:
    image, _ = run(change(scale=(0.5, 0.5), fill=(1, 2, 3)))
    assert (image[12:] == (1, 2, 3)).all() and (image[:, 16:] == (1, 2, 3)).all()
    assert (image[:12, :16] != (1, 2, 3)).any()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fill": (0.5, 0, 0)}, "whole numbers in fill"),
        ({"order": "released", "contrast": 0.1}, "brightness, contrast and saturation 0"),
        ({"order": "released", "scale": (0.5, 1.25)}, "steps of 0.1"),
    ],
)
def test_what_an_order_cannot_do_is_refused(values, said) -> None:
    with pytest.raises(ValueError, match=said):
        AugmentConfig.model_validate(PLAIN.model_dump() | values)


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
    out = photometric(pixels, brightness, contrast, saturation)
    assert np.abs(out - expected.clip(0, 255)).max() < 1.5


def test_photometric_clips_and_does_not_wrap() -> None:
    white = np.full((4, 4, 3), 250, dtype=np.uint8)
    assert photometric(white, 1.5, 1.0, 1.0).min() == 255
    assert photometric(white, 1.0, 1.0, 1.0).max() == 250


@needs_kernels
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 7), (24, 24), (40, 3), (61, 83), (96, 192), (5, 700)])
def test_colours_in_c_are_pillows_to_the_bit(size, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(size[0])
    called: list[str] = []
    monkeypatch.setattr(transforms, "call", lambda *a: called.append(a[0]) or kernels.call(*a))
    pictures = [rng.integers(0, most, (*size, 3), dtype=np.uint8) for most in (256, 256, 9)]
    for pixels in (*pictures, np.full((*size, 3), 255, np.uint8)):
        for factors in rng.uniform(0, 2.5, (20, 3)).tolist():
            monkeypatch.setattr(transforms, "has_kernels", lambda: True)
            found = photometric(pixels, *factors)
            monkeypatch.setattr(transforms, "has_kernels", lambda: False)
            before = len(called)
            assert (found == photometric(pixels, *factors)).all() and len(called) == before
    assert set(called) == ({"mean", "mix"} if size[0] <= size[1] else {"mix"})


def rare(height: int = 60, width: int = 80):
    """Class 1 in four pixels of a corner, class 2 in a stripe, the rest class 0, and an ignored column."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[50:52, 70:72], labels[:, 3], labels[:, 0] = 1, 2, 255
    return np.stack([labels] * 3, axis=-1), labels


@pytest.mark.parametrize("order", ["window", "released"])
def test_balanced_crops_show_every_class_about_as_often(order: str) -> None:
    image, labels = rare()
    config = change(order=order, crop=(12, 16), scale=(0.5, 2.0), balanced=1.0)
    shown = np.zeros(3)
    plain = np.zeros(3)
    for seed in range(300):
        for total, given in ((shown, config), (plain, config.model_copy(update={"balanced": 0.0}))):
            _, out = augment(image, labels, IDENTITY, given, np.random.default_rng(seed))
            total += [(out == number).any() for number in range(3)]
    assert plain[1] < 40 and 80 < shown[1] < 160, "nearest labels drop some of four pixels at scale 0.5"
    assert shown[2] > plain[2] * 1.5 and shown[0] > 250


def test_a_balanced_crop_shows_the_drawn_pixel_at_every_scale_and_place() -> None:
    for length, crop, scale in itertools.product((24, 41), (8, 24, 60), (0.5, 0.9, 1.0, 1.7)):
        for pixel, drawn in itertools.product(range(length), (0.0, 0.5, 0.999)):
            axis = span(length, crop, scale, transforms._position(length, crop, scale, pixel, drawn))
            assert axis.start <= pixel < axis.start + axis.length, (length, crop, scale, pixel)


def test_balance_switched_off_draws_nothing_and_a_chance_of_half_changes_half() -> None:
    image, labels = rare()
    config = change(crop=(12, 16), flip=0.5)
    half = config.model_copy(update={"balanced": 0.5})
    moved = 0
    for seed in range(200):
        one = augment(image, labels, IDENTITY, config, np.random.default_rng(seed))[1]
        two = augment(image, labels, IDENTITY, half, np.random.default_rng(seed))[1]
        moved += not np.array_equal(one, two)
    assert 60 < moved < 120


def test_an_image_without_a_labelled_pixel_is_cropped_anywhere() -> None:
    image, labels = rare()
    nothing = np.full(256, 255, dtype=np.uint8)
    config = change(crop=(12, 16), balanced=1.0)
    found = augment(image, labels, nothing, config, np.random.default_rng(1))
    plain = augment(image, labels, nothing, change(crop=(12, 16)), np.random.default_rng(1))
    assert (found[1] == 255).all() and (found[0] == plain[0]).all()
