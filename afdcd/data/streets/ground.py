"""The ground: road with its markings, kerbs, paving and yards, shaded pixel by pixel in world coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.classes import PAVEMENT, ROAD, TREE
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Floats, Grain, rgb

Bools = NDArray[np.bool_]

_KERB = 0.22
_PAVINGS: tuple[Colour, ...] = (
    (158, 152, 144),
    (146, 146, 146),
    (170, 160, 142),
    (138, 128, 120),
    (164, 140, 124),
)


@dataclass(frozen=True)
class Street:
    """A straight street; widths in metres, pairs are (left, right).

    `crossing` is (z, width) of a side street, `dashes` phase and period of the middle line, `wear` how much
    of the paint is left (0..1).
    """

    centre: float
    half: float
    pavements: tuple[float, float]
    grass: tuple[bool, bool]
    crossing: tuple[float, float] | None
    zebra: float | None
    middle: str
    edges: bool
    asphalt: Colour
    paving: Colour
    kerb: Colour
    slab: float
    dashes: tuple[float, float]
    wear: float

    def edge(self, side: int) -> float:
        """X of the kerb on that side (-1 left, 1 right)."""
        return self.centre + side * self.half

    def border(self, side: int) -> float:
        """X where the pavement of that side ends."""
        return self.edge(side) + side * self.pavements[side > 0]


def choose_street(rng: Generator, difficulty: float) -> Street:
    """Draw a street with the camera in a lane of it; hard ones have paving like their asphalt."""
    half = rng.uniform(3.2, 5.6)
    drive = 1 if rng.random() < 0.5 else -1
    tone = rng.uniform(82, 136)
    asphalt = (tone + rng.normal(0, 2), tone + rng.normal(1, 2), tone + rng.normal(3, 3))
    paving = _PAVINGS[int(rng.integers(len(_PAVINGS)))]
    mix = rng.uniform(0, 0.8 * difficulty)
    paving = (
        paving[0] + mix * (asphalt[0] + 14 - paving[0]),
        paving[1] + mix * (asphalt[1] + 14 - paving[1]),
        paving[2] + mix * (asphalt[2] + 14 - paving[2]),
    )
    lift = rng.uniform(10, 38)
    crossing = (rng.uniform(11, 34), rng.uniform(6, 10)) if rng.random() < 0.4 else None
    zebra = crossing[0] - rng.uniform(3.6, 4.4) if crossing else rng.uniform(7, 24)
    return Street(
        centre=-drive * half * rng.uniform(0.2, 0.5),
        half=half,
        pavements=(rng.uniform(1.6, 4.2), rng.uniform(1.6, 4.2)),
        grass=(bool(rng.random() < 0.35), bool(rng.random() < 0.35)),
        crossing=crossing,
        zebra=zebra if rng.random() < 0.3 else None,
        middle=str(rng.choice(("dashed", "solid", "double", "none"), p=(0.5, 0.16, 0.14, 0.2))),
        edges=bool(rng.random() < 0.4),
        asphalt=asphalt,
        paving=paving,
        kerb=(paving[0] + lift, paving[1] + lift, paving[2] + lift),
        slab=float(rng.choice((0.5, 0.75, 1.0))),
        dashes=(rng.uniform(0, 6), rng.uniform(4, 7)),
        wear=rng.uniform(0.62, 0.95),
    )


def paint_ground(canvas: Canvas, street: Street, grain: Grain) -> None:
    """Paint everything below the horizon, with the shadows that were cast on it so far."""
    first, x, z = canvas.camera.ground()
    if first >= canvas.camera.height:
        return
    label = _zones(street, x, z)
    lookup = grain.square[((z * 9).astype(np.int32) % grain.size), ((x * 9).astype(np.int32) % grain.size)]
    near = np.clip(1.25 - z / np.float32(28), 0, 1)
    colour, rough = _albedo(street, label, x, z, near)
    blotches = grain.square[
        ((z * 0.8).astype(np.int32) % grain.size), ((x * 2.2).astype(np.int32) % grain.size)
    ]
    colour *= (1 + rough * near * lookup + np.float32(0.018) * blotches)[..., None]
    paint = _markings(street, x, z) & (label == ROAD)
    worn = np.float32(street.wear) * np.clip(1 - 0.12 * lookup, 0, 1)
    colour += (paint * worn)[..., None] * (np.float32(226) - colour)
    _light_up(canvas, colour, first, z, label == TREE)
    canvas.image.paste(Image.fromarray(colour.astype(np.uint8)), (0, first))
    canvas.mask.paste(Image.fromarray(label), (0, first))


def _zones(street: Street, x: Floats, z: Floats) -> NDArray[np.uint8]:
    """Class ids by ground position."""
    label = np.full(x.shape, ROAD, dtype=np.uint8)
    for side in (-1, 1):
        out = side * (x - np.float32(street.edge(side)))
        label[out > 0] = PAVEMENT
        if street.grass[side > 0]:
            label[out > street.pavements[side > 0]] = TREE
    if street.crossing:
        start, width = street.crossing
        label[((z > start) & (z < start + width))[:, 0]] = ROAD
    return label


def _albedo(
    street: Street, label: NDArray[np.uint8], x: Floats, z: Floats, near: Floats
) -> tuple[Floats, Floats]:
    """Colours (H, W, 3) before noise and light, and how rough each pixel's surface is (H, W)."""
    table = np.zeros((256, 3), dtype=np.float32)
    table[ROAD], table[PAVEMENT], table[TREE] = street.asphalt, street.paving, (92, 122, 58)
    roughness = np.zeros(256, dtype=np.float32)
    roughness[ROAD], roughness[PAVEMENT], roughness[TREE] = 0.045, 0.04, 0.16
    colour = table[label]
    across = np.abs(x - np.float32(street.centre))
    lane = across * np.float32(2 * np.pi / street.half)
    wheels = np.float32(-0.035) * np.cos(2 * lane)
    slabs = ((np.mod(x, street.slab) < 0.05) | (np.mod(z, street.slab) < 0.05)) * (np.float32(-0.16) * near)
    gutter = ((across > street.half - 0.3) & (across <= street.half)) * np.float32(-0.16)
    colour *= (1 + np.where(label == ROAD, wheels + gutter, np.where(label == PAVEMENT, slabs, 0)))[..., None]
    kerb = (label == PAVEMENT) & (across < street.half + _KERB)
    colour[kerb] = street.kerb
    return colour, roughness[label]


def _markings(street: Street, x: Floats, z: Floats) -> Bools:
    """Where the road is painted."""
    phase, period = street.dashes
    dash = np.mod(z + np.float32(phase), period) < period * 0.5
    off = x - np.float32(street.centre)
    if street.middle == "double":
        paint: Bools = np.abs(np.abs(off) - np.float32(0.14)) < 0.065
    elif street.middle == "none":
        paint = np.zeros(off.shape, dtype=np.bool_)
    else:
        paint = (np.abs(off) < 0.085) & (dash | (street.middle == "solid"))
    if street.edges:
        paint |= np.abs(np.abs(off) - np.float32(street.half - 0.45)) < 0.07
    if street.crossing:
        start, width = street.crossing
        paint &= (z < start - 1) | (z > start + width + 1)
        paint |= (z > start - 1.1) & (z < start - 0.7) & (np.sign(off) == -np.sign(street.centre))
    if street.zebra is not None:
        band = (z > street.zebra) & (z < street.zebra + 2.6)
        paint = (paint & ~band) | (band & (np.mod(off, 1.1) < 0.55) & (np.abs(off) < street.half - 0.3))
    return paint


def _light_up(canvas: Canvas, colour: Floats, first: int, z: Floats, lawn: Bools) -> None:
    """Turn albedo into light in place: sun less shadow, dust, haze."""
    light = canvas.light
    colour += np.where(lawn, 0, np.float32(light.dustiness))[..., None] * (rgb(light.dust) - colour)
    cosine = np.float32(light.cosine(0, 1, 0))
    ambient, sun = rgb(light.ambient), rgb(light.sun)
    if light.casts:
        soft = canvas.shadows.filter(ImageFilter.BoxBlur(1))
        lit = 1 - np.asarray(soft)[first:].astype(np.float32)[..., None] * np.float32(1 / 255)
        colour *= ambient + sun * (cosine * lit)
    else:
        shaded = np.asarray(canvas.shadows)[first:, :, None] * np.float32(-0.3 / 255)
        colour *= (ambient + sun * cosine) * (1 + shaded)
    clear = np.exp(np.float32(-light.fog) * z)[..., None]
    colour *= clear
    colour += rgb(light.horizon) * (1 - clear)
    np.clip(colour, 0, 255, out=colour)
