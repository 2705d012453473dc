from __future__ import annotations

import pytest

from afdcd.colours import voc_colour


@pytest.mark.parametrize(
    ("number", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (3, (128, 128, 0)),
        (8, (64, 0, 0)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
    ],
)
def test_the_colours_of_vocs_masks(number: int, colour: tuple[int, int, int]) -> None:
    assert voc_colour(number) == colour


def test_all_numbers_of_a_byte_differ() -> None:
    assert len({voc_colour(number) for number in range(256)}) == 256
