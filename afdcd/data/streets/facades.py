"""Flat pictures of house fronts: bays and storeys of windows, shop fronts, doors, cornices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afdcd.data.streets.chance import coin, pick
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Floats, Grain, Offset, choose_offset, rgb

_WALLS: tuple[Colour, ...] = (
    (150, 92, 74),
    (128, 78, 64),
    (166, 112, 86),
    (214, 202, 178),
    (226, 218, 204),
    (196, 178, 148),
    (204, 176, 130),
    (176, 170, 160),
    (152, 152, 150),
    (186, 196, 200),
    (212, 186, 170),
    (122, 112, 104),
)
_GLAZED: tuple[Colour, ...] = ((122, 134, 142), (150, 156, 158), (104, 112, 120))
_FRAMES: tuple[Colour, ...] = ((232, 230, 222), (226, 222, 210), (84, 68, 56), (66, 70, 76), (196, 190, 178))
_SIGNS: tuple[Colour, ...] = (
    (150, 48, 42),
    (40, 66, 104),
    (46, 88, 66),
    (196, 158, 70),
    (58, 54, 52),
    (214, 208, 196),
    (108, 60, 84),
)


@dataclass(frozen=True)
class Style:
    """How one house is built; sizes in metres, window as shares of bay and storey."""

    wall: Colour
    frame: Colour
    bay: float
    storey: float
    parterre: float
    window: tuple[float, float]
    ground: str
    sign: Colour
    bands: bool
    glazed: bool


def choose_style(rng: Generator) -> Style:
    """Draw a house: shop house, dwelling or glazed office."""
    glazed = coin(rng, 0.16)
    palette = _GLAZED if glazed else _WALLS
    wall = pick(rng, palette)
    tone, warmth = rng.normal(0, 8), rng.normal(0, 4)
    shop = coin(rng)
    return Style(
        wall=(wall[0] + tone + warmth, wall[1] + tone, wall[2] + tone - warmth),
        frame=pick(rng, _FRAMES),
        bay=rng.uniform(2.3, 3.4),
        storey=rng.uniform(2.8, 3.4),
        parterre=rng.uniform(3.4, 4.2) if shop else rng.uniform(3.0, 3.5),
        window=(0.84, rng.uniform(0.5, 0.8)) if glazed else (rng.uniform(0.34, 0.56), rng.uniform(0.46, 0.6)),
        ground="shop" if shop else "dwelling",
        sign=pick(rng, _SIGNS),
        bands=coin(rng),
        glazed=glazed,
    )


@dataclass(frozen=True)
class Bays:
    """Which of the four variants each bay of each storey shows (storeys, bays), ground floor first."""

    kinds: NDArray[np.int64]
    offset: Offset


def choose_bays(rng: Generator, style: Style, length: float, storeys: int) -> Bays:
    """Draw the bays of a front of that length (metres) with `storeys` above the ground floor."""
    return Bays(rng.integers(0, 4, (storeys + 1, max(1, round(length / style.bay)))), choose_offset(rng))


def facade(style: Style, bays: Bays, texels: float, sky: Colour, grain: Grain) -> Floats:
    """The albedo (h, w, 3) of a front at `texels` to the metre, with `sky` mirrored in its glass."""
    wide, kinds = max(3, round(style.bay * texels)), bays.kinds
    floor = _row(_ground_cells(style, wide, max(4, round(style.parterre * texels)), texels, sky), kinds[0])
    tall = max(3, round(style.storey * texels))
    cells = _window_cells(style, wide, tall, texels, sky)
    upper = [_row(cells, kind) for kind in kinds[1:]]
    for row in upper:
        if style.bands:
            row[-max(1, round(0.18 * texels)) :] *= np.float32(1.12)
    picture = np.concatenate([*upper, floor])
    picture[: max(1, round(0.35 * texels))] *= np.float32(1.13)
    picture[max(1, round(0.35 * texels)) : max(2, round(0.55 * texels))] *= np.float32(0.72)
    rough = grain.cut(picture.shape[0], picture.shape[1], bays.offset)
    picture *= (1 + np.float32(0.035) * rough)[..., None]
    return picture


def plain(albedo: Colour, height: int, width: int, strength: float, grain: Grain, offset: Offset) -> Floats:
    """A surface (h, w, 3) of one albedo with some roughness."""
    rough = grain.cut(height, width, offset)
    return (1 + np.float32(strength) * rough)[..., None] * rgb(albedo)


def _row(cells: Floats, kinds: NDArray[np.int64]) -> Floats:
    """One storey (h, bays * w, 3) from cells (n, h, w, 3)."""
    chosen = cells[kinds % len(cells)]
    joined: Floats = chosen.transpose(1, 0, 2, 3).reshape(cells.shape[1], -1, 3)
    return joined


def _pane(cell: Floats, box: tuple[int, int, int, int], sky: Colour, depth: float) -> None:
    """Glass in rows box[0]:box[1], columns box[2]:box[3]: sky above, the dark room below."""
    top, bottom, left, right = box
    if bottom <= top or right <= left:
        return
    ramp = np.arange(bottom - top, dtype=np.float32) * np.float32(
        -0.32 * depth / (bottom - top)
    ) + np.float32(0.62 * depth)
    cell[top:bottom, left:right] = ramp[:, None, None] * rgb(sky) + rgb((16, 19, 23))


def _window_cells(style: Style, wide: int, tall: int, texels: float, sky: Colour) -> Floats:
    """Four variants (4, tall, wide, 3) of a bay: dark, bright, curtained, with a blind."""
    cells = np.empty((4, tall, wide, 3), dtype=np.float32)
    cells[:] = style.wall
    width, height = max(1, round(style.window[0] * wide)), max(1, round(style.window[1] * tall))
    left, top = (wide - width) // 2, max(0, (tall - height) // 2 - round(0.1 * texels))
    right, bottom = left + width, top + height
    frame = 1 if texels >= 5 and width > 3 else 0
    for kind, depth in enumerate((0.55, 1.0, 0.7, 0.5)):
        cell = cells[kind]
        if frame:
            cell[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = style.frame
        _pane(cell, (top, bottom, left, right), sky, depth)
        if kind == 2:
            side = max(1, width // 4)
            cell[top:bottom, left : left + side] = cell[top:bottom, right - side : right] = (206, 200, 186)
        if kind == 3:
            cell[top : top + max(1, height // 3), left:right] = (192, 184, 166)
        if frame and width > 6 and not style.glazed:
            cell[top:bottom, (left + right) // 2] = style.frame
        if frame:
            cell[bottom : bottom + 1, max(0, left - 1) : right + 1] *= np.float32(0.7)
    return cells


def _ground_cells(style: Style, wide: int, tall: int, texels: float, sky: Colour) -> Floats:
    """Variants (n, tall, wide, 3) of a ground-floor bay: shop windows under a board, or windows and doors."""
    if style.ground != "shop":
        cells = _window_cells(style, wide, tall, texels, sky)
        door = max(2, round(1.05 * texels))
        left = (wide - door) // 2
        head = max(0, tall - round(2.2 * texels))
        cells[0, head:, max(0, left - 1) : left + door + 1] = style.frame
        cells[0, head + 1 :, left : left + door] = rgb(style.sign) * np.float32(0.7)
        cells[:, -max(1, round(0.4 * texels)) :] *= np.float32(0.82)
        return cells
    cells = np.empty((4, tall, wide, 3), dtype=np.float32)
    cells[:] = style.wall
    board, head = max(1, round(0.35 * texels)), max(2, round(1.0 * texels))
    cells[:, board:head] = style.sign
    if texels >= 7:
        letters = slice(round(0.55 * texels), round(0.8 * texels))
        cells[:2, letters, wide // 5 : wide - wide // 5 : 2] = (232, 226, 208)
    post = max(1, round(0.15 * texels))
    for kind, depth in enumerate((0.45, 0.75, 0.6, 0.35)):
        foot = tall if kind == 3 else tall - max(1, round(0.5 * texels))
        inset = wide // 4 if kind == 3 else 0
        _pane(cells[kind], (head, foot, post + inset, wide - inset), sky, depth)
        goods = cells[kind, head + (foot - head) // 2 : foot, post + inset : wide - inset]
        goods += rgb((26, 20, 10) if kind % 2 else (10, 14, 18))
    return cells
