"""Trees and hedges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.classes import TREE
from afdcd.data.streets.facades import plain
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Floats, Grain, Offset, choose_offset, clouds, rgb

_LEAVES: tuple[Colour, ...] = ((88, 116, 54), (72, 104, 56), (104, 126, 62), (64, 92, 50), (120, 128, 60))
_AUTUMN: tuple[Colour, ...] = ((172, 116, 48), (158, 92, 46), (150, 132, 56))
_CROWN = 64
_ROUND = tuple((math.cos(0.2 * math.pi * k), math.sin(0.2 * math.pi * k)) for k in range(10))


@dataclass(frozen=True)
class Crown:
    """A crown of leaves seen from the side: brightness and stencil, both (64, 64)."""

    brightness: Floats
    shape: NDArray[np.bool_]


def grow_crown(rng: Generator, sun_x: float) -> Crown:
    """Grow a crown from overlapping balls of leaves, each lit from above and from the sun's side."""
    lobes = int(rng.integers(7, 10))
    axis = np.linspace(-1, 1, _CROWN, dtype=np.float32)
    slim = rng.uniform(0.62, 1.0)
    angle, reach = rng.uniform(0, 2 * np.pi, lobes), np.sqrt(rng.uniform(0.02, 0.5, lobes))
    radius = rng.uniform(0.3, 0.5, lobes)
    cx = (reach * np.cos(angle) * slim).astype(np.float32)[:, None, None]
    cy = (reach * np.sin(angle) * 0.85).astype(np.float32)[:, None, None]
    r = radius.astype(np.float32)[:, None, None]
    dx, dy = (axis[None, None, :] - cx) / r, (axis[None, :, None] - cy) / r
    dome = 1 - dx * dx - dy * dy
    top = dome.argmax(axis=0)[None]
    height = np.take_along_axis(dome, top, axis=0)[0]
    nx, ny = np.take_along_axis(dx, top, axis=0)[0], np.take_along_axis(dy, top, axis=0)[0]
    leaves = clouds(rng, _CROWN, _CROWN, [(12, 12), (28, 28), (56, 56)], 0.85)
    shape = height + np.float32(0.75) * leaves > 0.02
    facing = np.float32(0.42) * -ny + np.float32(0.3 * np.sign(sun_x)) * nx
    brightness = 0.86 + 0.42 * np.clip(facing, -0.8, 0.8) + 0.62 * leaves - 0.22 * axis[:, None]
    return Crown(np.clip(brightness, 0.22, 1.55).astype(np.float32), shape)


@dataclass(frozen=True)
class Tree:
    """A tree at (x, z); sizes in metres."""

    x: float
    z: float
    height: float
    spread: float
    bare: float
    leaves: Colour
    crown: Crown

    def shadow(self, canvas: Canvas) -> None:
        """Cast the shadow of crown and trunk."""
        if not canvas.light.casts:
            return
        canvas.cast([(self.x - 0.12, self.z), (self.x + 0.12, self.z)], self.bare * self.height)
        sun, middle = canvas.light.toward, 0.62 * self.height
        x, z = self.x - sun[0] / sun[1] * middle, self.z - sun[2] / sun[1] * middle
        for dx, dz, size in (
            (0, 0, 1.0),
            (0.5, 0.35, 0.62),
            (-0.55, 0.3, 0.58),
            (0.2, -0.6, 0.6),
            (-0.3, -0.5, 0.5),
        ):
            radius = 0.42 * self.spread * size
            middle_x, middle_z = x + 0.6 * dx * self.spread, z + 0.9 * dz * self.spread
            canvas.darken([(middle_x + radius * c, middle_z + 1.4 * radius * s) for c, s in _ROUND], 225)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint trunk and crown."""
        light = canvas.light
        foot, waist = 0.022 * self.height + 0.04, 0.016 * self.height + 0.02
        fork = self.height * (self.bare + 0.25)
        trunk = [
            (self.x - foot, 0.0, self.z),
            (self.x + foot, 0.0, self.z),
            (self.x + waist, fork, self.z),
            (self.x - waist, fork, self.z),
        ]
        canvas.polygon(trunk, (92, 76, 62), 0.5 * light.cosine(0, 0, -1), TREE)
        # a far crown needs no more points than it has pixels
        step = 2 if canvas.camera.focal * self.spread / self.z < _CROWN / 2 else 1
        lit = rgb(light.factor(0.55)) * rgb(light.soil(self.leaves))
        picture = self.crown.brightness[::step, ::step, None] * lit
        sides = (self.x - self.spread / 2, self.x + self.spread / 2)
        heights = (self.bare * self.height, self.height)
        canvas.front(sides, self.z, heights, picture, TREE, self.crown.shape[::step, ::step])


def choose_tree(rng: Generator, crowns: list[Crown], x: float, z: float, autumn: bool) -> Tree:
    """Draw a tree at (x, z)."""
    palette = _AUTUMN if autumn and rng.random() < 0.7 else _LEAVES
    leaves = pick(rng, palette)
    tone = rng.normal(0, 7)
    height = rng.uniform(4.2, 9.0)
    return Tree(
        x=x,
        z=z,
        height=height,
        spread=height * rng.uniform(0.5, 0.8),
        bare=rng.uniform(0.2, 0.36),
        leaves=(leaves[0] + tone, leaves[1] + tone, leaves[2] + tone),
        crown=pick(rng, crowns),
    )


@dataclass(frozen=True)
class Hedge:
    """A clipped hedge along the street."""

    x: float
    span: tuple[float, float]
    height: float
    leaves: Colour
    offset: Offset

    @property
    def z(self) -> float:
        """Distance of its near end."""
        return self.span[0]

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow."""
        canvas.cast([(self.x, self.span[0]), (self.x, self.span[1])], self.height)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint the near end and the long side."""
        light, side = canvas.light, 1 if self.x > 0 else -1
        leaves = light.soil(self.leaves)
        end = plain(leaves, 16, 10, 0.13, grain, self.offset) * rgb(light.factor(light.cosine(0, 0, -1)))
        sides = sorted((self.x, self.x + side * 0.7))
        canvas.front((sides[0], sides[1]), self.span[0], (0.0, self.height), end, TREE)
        long = plain(leaves, 18, 160, 0.13, grain, self.offset) * rgb(light.factor(light.cosine(-side, 0, 0)))
        long *= np.linspace(1.12, 0.72, 18, dtype=np.float32)[:, None, None]
        shape = np.arange(18)[:, None] >= 1.2 + grain.cut(1, 160, self.offset)
        canvas.wall(self.x, self.span, (0.0, self.height), long, TREE, shape)


def choose_hedge(rng: Generator, x: float, span: tuple[float, float]) -> Hedge:
    """Draw a hedge on the plane `x`."""
    leaves = pick(rng, _LEAVES)
    dark = (leaves[0] * 0.9, leaves[1] * 0.9, leaves[2] * 0.9)
    return Hedge(x=x, span=span, height=rng.uniform(0.9, 1.9), leaves=dark, offset=choose_offset(rng))
