"""The streets renderer: exact repetition, exact masks, scenes that hold what they promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from afdcd.data.streets import CLASSES, PALETTES, TO_NINE, render

SIZE = (64, 128)
SCENES = 60


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """(60, H, W) masks of as many scenes."""
    return np.stack([render(seed, size=SIZE, difficulty=0.5, classes=11)[1] for seed in range(SCENES)])


def test_the_same_seed_gives_the_same_bits() -> None:
    first = render(7, size=SIZE, difficulty=0.5, classes=11)
    again = render(7, size=SIZE, difficulty=0.5, classes=11)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_another_process_gives_the_same_bits() -> None:
    code = (
        "import hashlib; from afdcd.data.streets import render; "
        "i, m = render(7, size=(64, 128), difficulty=0.5, classes=11); "
        "print(hashlib.sha256(i.tobytes() + m.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    image, mask = render(7, size=SIZE, difficulty=0.5, classes=11)
    assert there.strip() == hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def test_rendering_disturbs_and_heeds_no_global_generator() -> None:
    np.random.seed(1)
    first, _ = render(3, size=SIZE, difficulty=0.5, classes=11)
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    np.random.seed(2)
    second, _ = render(3, size=SIZE, difficulty=0.5, classes=11)
    np.random.seed(1)
    assert np.array_equal(first, second)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


def test_seeds_and_large_seeds_give_different_scenes() -> None:
    seeds = [0, 1, 1 << 34, (1 << 34) + 1, 1 << 70]
    images = [render(seed, size=SIZE, difficulty=0.5, classes=11)[0] for seed in seeds]
    assert len({image.tobytes() for image in images}) == len(seeds)


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (97, 64), (45, 181)])
def test_any_size_is_obeyed(size: tuple[int, int]) -> None:
    image, mask = render(5, size=size, difficulty=0.5, classes=9)
    assert image.shape == (*size, 3) and mask.shape == size
    assert image.dtype == mask.dtype == np.uint8
    assert image.flags.c_contiguous and mask.flags.c_contiguous


@pytest.mark.parametrize("seed", [2, 9])
def test_every_size_shows_the_same_scene(seed: int) -> None:
    _, small = render(seed, size=(96, 192), difficulty=0.5, classes=11)
    _, large = render(seed, size=(192, 384), difficulty=0.5, classes=11)
    assert (large[::2, ::2] == small).mean() > 0.93


def test_ids_are_in_range_for_both_sets_of_classes(masks: np.ndarray) -> None:
    assert masks.max() <= 10
    nine = [render(seed, size=SIZE, difficulty=0.5, classes=9)[1] for seed in range(10)]
    assert np.stack(nine).max() <= 8


def test_nine_classes_are_the_eleven_merged(masks: np.ndarray) -> None:
    for seed in range(10):
        image, nine = render(seed, size=SIZE, difficulty=0.5, classes=9)
        assert np.array_equal(nine, TO_NINE[masks[seed]])
        assert np.array_equal(image, render(seed, size=SIZE, difficulty=0.5, classes=11)[0])


def test_names_and_colours_of_the_classes() -> None:
    assert [len(CLASSES[n]) for n in (9, 11)] == [len(PALETTES[n]) for n in (9, 11)] == [9, 11]
    eleven = dict(zip(CLASSES[11], PALETTES[11], strict=True))
    for name, colour in zip(CLASSES[9], PALETTES[9], strict=True):
        assert eleven.get(name, colour) == colour
    for old, new in enumerate(TO_NINE):
        merged, name = CLASSES[9][new], CLASSES[11][old]
        assert merged == name or {merged: name} in (
            {"pole_sign": "pole"},
            {"pole_sign": "signsymbol"},
            {"person": "pedestrian"},
            {"person": "bicyclist"},
        )


def test_every_class_has_a_sensible_share(masks: np.ndarray) -> None:
    shares = np.bincount(masks.ravel(), minlength=11) / masks.size
    least = dict(zip(CLASSES[11], (5, 15, 1, 20, 3, 4, 0.3, 0.7, 1.5, 0.3, 0.3), strict=True))
    most = dict(zip(CLASSES[11], (25, 42, 6, 45, 16, 20, 4, 6, 12, 5, 6), strict=True))
    for name, share in zip(CLASSES[11], 100 * shares, strict=True):
        assert least[name] < share < most[name], f"{name}: {share:.2f} %"


def test_every_class_is_in_many_scenes(masks: np.ndarray) -> None:
    present = np.stack([np.bincount(mask.ravel(), minlength=11) > 12 for mask in masks]).mean(0)
    assert present.min() > 0.25
    assert present[[0, 1, 3, 4]].min() > 0.9


def test_the_sky_is_above_and_the_road_below(masks: np.ndarray) -> None:
    rows = np.arange(SIZE[0])[None, :, None]
    sky, road = ((masks == label) * rows for label in (0, 3))
    assert sky.sum() / (masks == 0).sum() < 0.35 * SIZE[0]
    assert road.sum() / (masks == 3).sum() > 0.65 * SIZE[0]
    assert (masks[:, -1] == 0).sum() == 0


def test_harder_scenes_are_noisier() -> None:
    """Neighbouring pixels of the sky differ by noise alone, clouds being smooth."""

    def roughness(difficulty: float) -> float:
        differences = []
        for seed in range(12):
            image, mask = render(seed, size=SIZE, difficulty=difficulty, classes=11)
            sky = (mask[:, 1:] == 0) & (mask[:, :-1] == 0)
            steps = np.abs(np.diff(image.astype(np.float64), axis=1)).mean(-1)
            differences.append(steps[sky].mean())
        return float(np.mean(differences))

    levels = [roughness(difficulty) for difficulty in (0.0, 0.3, 0.6, 1.0)]
    assert all(b > a + 0.5 for a, b in zip(levels, levels[1:], strict=False)), levels


def test_harder_scenes_are_fuller() -> None:
    def full(difficulty: float) -> int:
        things = [render(seed, size=SIZE, difficulty=difficulty, classes=11)[1] for seed in range(30)]
        return int(np.isin(np.stack(things), (8, 9, 10)).sum())

    assert full(1.0) > 1.1 * full(0.0)


@pytest.mark.slow
def test_a_thousand_seeds_render_at_both_ends_of_the_difficulty() -> None:
    for seed in range(1000):
        image, mask = render(seed, size=(48, 96), difficulty=float(seed % 2), classes=11)
        assert mask.max() <= 10
        assert image.std() > 8, f"seed {seed} shows nothing"
