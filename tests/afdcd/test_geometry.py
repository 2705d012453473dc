from __future__ import annotations

import numpy as np
import pytest

from afdcd.geometry import Fit, fit, inner_size, unfit


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_an_image_of_the_input_size_passes_untouched(mode: Fit) -> None:
    image = picture(31, 57)
    fitted = fit(image, (31, 57), mode)
    assert fitted.image is image
    classes = image[..., 0]
    assert np.array_equal(unfit(classes, fitted), classes)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize("original", [(31, 57), (97, 33), (1, 200), (200, 1), (96, 191)])
def test_the_way_back_has_the_original_size(mode: Fit, original: tuple[int, int]) -> None:
    fitted = fit(picture(*original), (48, 96), mode)
    assert fitted.image.shape == (48, 96, 3) and fitted.original == original
    assert unfit(np.zeros((48, 96), dtype=np.uint8), fitted).shape == original


def test_stretch_back_is_exact_for_whole_factors() -> None:
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    fitted = fit(picture(6, 8), (3, 4), "stretch")
    assert np.array_equal(unfit(classes, fitted), classes.repeat(2, axis=0).repeat(2, axis=1))


def test_letterbox_keeps_the_ratio_and_pads_below_or_right() -> None:
    image = np.full((50, 50, 3), 200, dtype=np.uint8)
    fitted = fit(image, (40, 100), "letterbox")
    assert fitted.inner == (40, 40)
    assert (fitted.image[:, :40] == 200).all() and (fitted.image[:, 40:] == 0).all()
    assert inner_size((100, 50), (40, 40), "letterbox") == (40, 20)
    assert inner_size((50, 100), (40, 40), "letterbox") == (20, 40)


def test_padding_never_reaches_the_class_map() -> None:
    fitted = fit(picture(33, 71), (64, 64), "letterbox")
    classes = np.full((64, 64), 9, dtype=np.uint8)
    classes[: fitted.inner[0], : fitted.inner[1]] = 1
    assert (unfit(classes, fitted) == 1).all()


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_a_half_plane_survives_the_round_trip(mode: Fit) -> None:
    image = np.zeros((75, 121, 3), dtype=np.uint8)
    image[:, 60:] = 255
    fitted = fit(image, (50, 90), mode)
    back = unfit((fitted.image[..., 0] > 127).astype(np.uint8), fitted)
    assert np.mean(back != (image[..., 0] > 127)) < 0.01


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert abs(int(fit(stripes, (8, 8), "stretch").image[4, 4, 0]) - 127) < 10


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        fit(np.zeros((4, 4, 3), dtype=np.float32), (8, 8), "stretch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        fit(np.zeros((4, 4), dtype=np.uint8), (8, 8), "stretch")
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        unfit(np.zeros((4, 4), dtype=np.uint8), fit(picture(4, 4), (8, 8), "stretch"))
