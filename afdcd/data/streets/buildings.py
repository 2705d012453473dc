"""Houses as boxes with hung fronts, roofs and gables, and the far end of the street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from afdcd.data.streets.canvas import Bools, Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.classes import BUILDING, TREE
from afdcd.data.streets.facades import Bays, Style, choose_bays, choose_style, facade, plain
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Floats, Grain, Offset, choose_offset, rgb

_ROOFS: tuple[Colour, ...] = ((96, 92, 96), (138, 84, 66), (112, 78, 66), (84, 80, 80), (152, 102, 78))


@dataclass(frozen=True)
class House:
    """A box beside the street: its front lies on the plane `x`, from z=span[0] to span[1], metres."""

    side: int
    x: float
    span: tuple[float, float]
    deep: float
    storeys: int
    pitch: float
    roof: Colour
    chimney: bool
    exposed: bool
    style: Style
    front: Bays
    end: Bays

    @property
    def z(self) -> float:
        """Distance of its nearest wall."""
        return self.span[0]

    @property
    def height(self) -> float:
        """Height of the eaves in metres."""
        return self.style.parterre + self.storeys * self.style.storey

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow."""
        back = self.x + self.side * self.deep
        corners = [(x, z) for x in (self.x, back) for z in self.span]
        canvas.cast(corners, self.height + 0.4 * self.pitch * self.deep)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint roof, the wall towards the camera, and the front along the street."""
        light, camera = canvas.light, canvas.camera
        texels = float(np.clip(0.55 * camera.focal / max(self.span[0], 4.0), 2.5, 12))
        sky = (0.5 * (light.zenith[0] + light.horizon[0]), light.horizon[1] * 0.95, light.horizon[2])
        self._draw_roof(canvas)
        self._draw_end(canvas, texels, sky, grain)
        if not canvas.sees_wall(self.x, self.span):
            return
        front = facade(self.style, self.front, texels, sky, grain)
        middle = 0.5 * (max(self.span[0], abs(self.x)) + self.span[1])
        front = _narrowed(front, texels * middle * middle / (camera.focal * max(abs(self.x), 1.0)))
        across = rgb(light.factor(light.cosine(-self.side, 0, 0)))
        canvas.wall(self.x, self.span, (0.0, self.height), _soiled(canvas, front) * across, BUILDING)

    def _draw_end(self, canvas: Canvas, texels: float, sky: Colour, grain: Grain) -> None:
        """The wall towards the camera: with windows where it stands free, blank where a neighbour adjoins."""
        light, back = canvas.light, self.x + self.side * self.deep
        sides = (min(self.x, back), max(self.x, back))
        if not canvas.sees_front(sides, self.span[0]):
            return
        if self.exposed:
            end = facade(self.style, self.end, texels, sky, grain)[:, :: self.side]
            lit = _soiled(canvas, end) * rgb(light.factor(light.cosine(0, 0, -1)))
            canvas.front(sides, self.span[0], (0.0, self.height), lit, BUILDING)
        else:
            corners = [
                (x, y, self.span[0])
                for x, y in zip(sides + sides[::-1], (0, 0, self.height, self.height), strict=True)
            ]
            canvas.polygon(corners, self.style.wall, light.cosine(0, 0, -1), BUILDING)

    def _draw_roof(self, canvas: Canvas) -> None:
        """A pitched roof, ridge along the street; its slope shows only to an eye above its plane."""
        if self.pitch <= 0:
            return
        light, eaves, half = canvas.light, self.height, 0.5 * self.deep
        ridge_x, ridge = self.x + self.side * half, eaves + self.pitch * half
        near, far = self.span
        wall = self.style.wall
        if self.chimney:
            z = near + 0.3 * (far - near)
            box = [
                (ridge_x + dx, y, z)
                for dx, y in ((-0.5, ridge - 1), (0.5, ridge - 1), (0.5, ridge + 1.2), (-0.5, ridge + 1.2))
            ]
            canvas.polygon(
                box, (wall[0] * 0.8, wall[1] * 0.8, wall[2] * 0.8), light.cosine(0, 0, -1), BUILDING
            )
        end = [(self.x, eaves, near), (ridge_x, ridge, near), (self.x + self.side * self.deep, eaves, near)]
        canvas.polygon(end, wall, light.cosine(0, 0, -1), BUILDING)
        if self.pitch > (eaves - canvas.camera.eye) / max(abs(self.x), 0.5):
            lip, low = self.x - self.side * 0.3, eaves - 0.3 * self.pitch
            slope = [(lip, low, near), (lip, low, far), (ridge_x, ridge, far), (ridge_x, ridge, near)]
            norm = float(np.hypot(1.0, self.pitch))
            canvas.polygon(
                slope, self.roof, light.cosine(-self.side * self.pitch / norm, 1 / norm, 0), BUILDING
            )


def choose_house(
    rng: Generator, side: int, x: float, start: float, *, detached: bool, exposed: bool
) -> House:
    """Draw a house whose front begins at z=start; `exposed` if its end stands free."""
    style = choose_style(rng)
    storeys = (
        int(rng.integers(0, 3)) if detached else pick(rng, (1, 2, 3, 4, 6), (0.2, 0.32, 0.26, 0.15, 0.07))
    )
    pitched = not style.glazed and storeys < 4 and rng.random() < 0.75
    length, deep = rng.uniform(7, 12) if detached else rng.uniform(6, 17), rng.uniform(8, 12)
    return House(
        side=side,
        x=x,
        span=(start, start + length),
        deep=deep,
        storeys=storeys,
        pitch=rng.uniform(0.7, 1.15) if pitched else 0.0,
        roof=pick(rng, _ROOFS),
        chimney=bool(pitched and rng.random() < 0.5),
        exposed=exposed,
        style=style,
        front=choose_bays(rng, style, length, storeys),
        end=choose_bays(rng, style, deep, storeys),
    )


@dataclass(frozen=True)
class Block:
    """A house, or a clump of trees, at the far end of the street."""

    sides: tuple[float, float]
    height: float
    wooded: bool
    albedo: Colour
    offset: Offset


@dataclass(frozen=True)
class Backdrop:
    """What closes the street at its far end."""

    z: float
    blocks: tuple[Block, ...]

    def shadow(self, canvas: Canvas) -> None:
        """Too far away to cast one."""

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint the blocks."""
        light = canvas.light
        facing = rgb(light.factor(light.cosine(0, 0, -1)))
        for block in self.blocks:
            if not canvas.sees_front(block.sides, self.z):
                continue
            texture = (
                plain(block.albedo, 24, 24, 0.16 if block.wooded else 0.05, grain, block.offset) * facing
            )
            if block.wooded:
                shape = _leafy_top(24, 24, grain, block.offset)
                canvas.front(block.sides, self.z, (0.0, block.height), texture, TREE, shape)
            else:
                texture[3:22:4, 2::4] *= np.float32(0.72)
                canvas.front(block.sides, self.z, (0.0, block.height), texture, BUILDING)


def choose_backdrop(rng: Generator) -> Backdrop:
    """Draw the far end, wide enough for any gap."""
    blocks = []
    x, leafy, wall = -130.0, rng.uniform(0.1, 0.9), rng.uniform(110, 180)
    while x < 130:
        width, tone = rng.uniform(9, 26), rng.normal(0, 10)
        wooded = bool(rng.random() < leafy)
        blocks.append(
            Block(
                sides=(x, x + width + 1),
                height=rng.uniform(5, 11) if wooded else rng.uniform(6, 17),
                wooded=wooded,
                albedo=(70 + tone, 92 + tone, 52)
                if wooded
                else (wall + tone + 6, wall + tone, wall + tone - 8),
                offset=choose_offset(rng),
            )
        )
        x += width
    return Backdrop(z=rng.uniform(95, 130), blocks=tuple(blocks))


def _soiled(canvas: Canvas, picture: Floats) -> Floats:
    """The picture with the scene's dust on it."""
    return picture + np.float32(canvas.light.dustiness) * (rgb(canvas.light.dust) - picture)


def _narrowed(picture: Floats, factor: float) -> Floats:
    """Average neighbouring columns where the view squeezes `factor` of them into a pixel."""
    step = int(min(factor, picture.shape[1] // 2))
    if step < 2:
        return picture
    kept = picture.shape[1] // step
    averaged: Floats = picture[:, : kept * step].reshape(picture.shape[0], kept, step, 3).mean(axis=2)
    return averaged


def _leafy_top(width: int, height: int, grain: Grain, offset: Offset) -> Bools:
    """A stencil (height, width) whose upper edge is ragged."""
    edge = grain.cut(1, width, offset)[0]
    edge = 0.25 * height * np.clip(0.5 + 0.3 * (edge + np.roll(edge, 1) + np.roll(edge, 2)) / 2, 0, 1)
    ragged: Bools = np.arange(height)[:, None] >= edge[None, :]
    return ragged
