"""The ground: road with its markings, kerbs, paving and yards, shaded pixel by pixel in world coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import coin, pick, sign
from afdcd.data.streets.classes import PAVEMENT, ROAD, TREE
from afdcd.data.streets.light import Colour, Light
from afdcd.data.streets.noise import Floats, Grain, rgb

Bools = NDArray[np.bool_]

_KERB = 0.22

# materials, the class each belongs to, and how rough it looks
_ASPHALT, _CURB, _PAVING, _LAWN, _PAINT = range(5)
_LABELS = np.array([ROAD, PAVEMENT, PAVEMENT, TREE, ROAD], dtype=np.uint8)
_ROUGHNESS = np.array([0.045, 0.03, 0.04, 0.16, 0.09], dtype=np.float32)

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
    drive = sign(rng)
    tone = rng.uniform(82, 136)
    asphalt = (tone + rng.normal(0, 2), tone + rng.normal(1, 2), tone + rng.normal(3, 3))
    paving = pick(rng, _PAVINGS)
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
        grass=(coin(rng, 0.35), coin(rng, 0.35)),
        crossing=crossing,
        zebra=zebra if rng.random() < 0.3 else None,
        middle=pick(rng, ("dashed", "solid", "double", "none"), (0.5, 0.16, 0.14, 0.2)),
        edges=coin(rng, 0.4),
        asphalt=asphalt,
        paving=paving,
        kerb=(paving[0] + lift, paving[1] + lift, paving[2] + lift),
        slab=pick(rng, (0.5, 0.75, 1.0)),
        dashes=(rng.uniform(0, 6), rng.uniform(4, 7)),
        wear=rng.uniform(0.62, 0.95),
    )


def paint_ground(canvas: Canvas, street: Street, grain: Grain) -> None:
    """Paint everything below the horizon, with the shadows that were cast on it so far."""
    first, x, z = canvas.camera.ground()
    if first >= canvas.camera.height:
        return
    off = x - np.float32(street.centre)
    zone = _zones(street, off, z)
    near = np.clip(1.25 - z * np.float32(1 / 28), 0, 1)
    gain = 1 + _relief(street, zone, off, x, z, near)
    gain += _ROUGHNESS[zone] * near * _grain(grain, x, z, 9, 9)
    gain += np.float32(0.018) * _grain(grain, x, z, 2.2, 0.8)
    clear = np.exp(np.float32(-canvas.light.fog) * z)
    lit, loss = _lit(canvas.light, street)
    colour = lit[zone]
    colour *= (gain * clear)[..., None]
    colour *= 1 - _shade(canvas)[first:, :, None] * loss
    colour += (1 - clear)[..., None] * rgb(canvas.light.horizon)
    np.clip(colour, 0, 255, out=colour)
    canvas.image.paste(Image.fromarray(colour.astype(np.uint8)), (0, first))
    canvas.mask.paste(Image.fromarray(_LABELS[zone]), (0, first))


def _share(x: Floats, period: float) -> Floats:
    """How far into its period each number is, 0..1."""
    turns = x * np.float32(1 / period)
    turns -= np.floor(turns)
    return turns


def _grain(grain: Grain, x: Floats, z: Floats, across: float, along: float) -> Floats:
    """Noise on the ground with that many grains to the metre."""
    rows = (z * np.float32(along)).astype(np.intp) & (grain.size - 1)
    columns = (x * np.float32(across)).astype(np.intp) & (grain.size - 1)
    noise: Floats = grain.square[rows, columns]
    return noise


def _zones(street: Street, off: Floats, z: Floats) -> NDArray[np.uint8]:
    """Materials by ground position; `off` is measured from the middle of the road."""
    zone = np.full(off.shape, _ASPHALT, dtype=np.uint8)
    across = np.abs(off)
    zone[across > street.half] = _CURB
    zone[across > street.half + _KERB] = _PAVING
    for side in (-1, 1):
        if street.grass[side > 0]:
            zone[side * off > street.half + street.pavements[side > 0]] = _LAWN
    if street.crossing:
        start, width = street.crossing
        zone[((z > start) & (z < start + width))[:, 0]] = _ASPHALT
    zone[_markings(street, off, z) & (zone == _ASPHALT)] = _PAINT
    return zone


def _markings(street: Street, off: Floats, z: Floats) -> Bools:
    """Where the road would be painted."""
    phase, period = street.dashes
    across = np.abs(off)
    if street.middle == "double":
        paint: Bools = np.abs(across - np.float32(0.14)) < 0.065
    elif street.middle == "none":
        paint = np.zeros(off.shape, dtype=np.bool_)
    else:
        dash = _share(z + np.float32(phase), period) < 0.5
        paint = (across < 0.085) & (dash | (street.middle == "solid"))
    if street.edges:
        paint |= np.abs(across - np.float32(street.half - 0.45)) < 0.07
    if street.crossing:
        start, width = street.crossing
        paint &= (z < start - 1) | (z > start + width + 1)
        paint |= (z > start - 1.1) & (z < start - 0.7) & (np.sign(off) == -np.sign(street.centre))
    if street.zebra is not None:
        band = ((z > street.zebra) & (z < street.zebra + 2.6))[:, 0]
        paint[band] = (_share(off[band], 1.1) < 0.5) & (across[band] < street.half - 0.3)
    return paint


def _relief(
    street: Street, zone: NDArray[np.uint8], off: Floats, x: Floats, z: Floats, near: Floats
) -> Floats:
    """Darkening by wheel tracks, gutters and the joints between slabs, as a share of the albedo."""
    across = np.abs(off)
    tracks = np.abs(_share(across, 0.5 * street.half) - np.float32(0.5)) * np.float32(0.14) - np.float32(
        0.035
    )
    gutter = np.where(across > street.half - 0.3, np.float32(-0.16), tracks)
    joint = np.float32(0.05 / street.slab)
    slabs = ((_share(x, street.slab) < joint) | (_share(z, street.slab) < joint)) * (np.float32(-0.16) * near)
    relief: Floats = np.where(zone == _ASPHALT, gutter, np.where(zone == _PAVING, slabs, np.float32(0)))
    return relief


def _lit(light: Light, street: Street) -> tuple[Floats, Floats]:
    """Colour of every material in the open (materials, 3), and the share of it that shadow takes (3,)."""
    white = 226 - rgb(street.asphalt)
    table = np.stack(
        [
            rgb(light.soil(street.asphalt)),
            rgb(light.soil(street.kerb)),
            rgb(light.soil(street.paving)),
            rgb((92, 122, 58)),
            rgb(street.asphalt) + np.float32(street.wear) * white,
        ]
    )
    cosine = light.cosine(0, 1, 0)
    full = rgb(light.factor(cosine))
    loss = rgb(light.sun) * np.float32(cosine) / full if light.casts else rgb((0.3, 0.3, 0.3))
    return table * full, loss


def _shade(canvas: Canvas) -> Floats:
    """How shaded each canvas pixel is (H, W), 0..1, with soft edges under a sun."""
    shadows = canvas.shadows.filter(ImageFilter.BoxBlur(1)) if canvas.light.casts else canvas.shadows
    return np.asarray(shadows).astype(np.float32) * np.float32(1 / 255)
