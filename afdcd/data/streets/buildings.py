"""Houses as boxes with hung fronts, roofs and gables, and the far end of the street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.classes import BUILDING, TREE
from afdcd.data.streets.facades import Style, choose_style, facade, plain
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Floats, Grain

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
    style: Style

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

    def draw(self, canvas: Canvas, grain: Grain, rng: Generator) -> None:
        """Paint roof, the wall towards the camera, and the front along the street."""
        light, camera = canvas.light, canvas.camera
        texels = float(np.clip(0.55 * camera.focal / max(self.span[0], 4.0), 2.5, 12))
        sky = (0.5 * (light.zenith[0] + light.horizon[0]), light.horizon[1] * 0.95, light.horizon[2])
        self._draw_roof(canvas)
        gable = facade(self.style, self.deep, self.storeys, texels, sky, grain, rng)
        if self.side < 0:
            gable = gable[:, ::-1]
        sides = (min(self.x, self.x + self.side * self.deep), max(self.x, self.x + self.side * self.deep))
        toward = light.factor(light.cosine(0, 0, -1))
        canvas.front(sides, self.span[0], (0.0, self.height), _soiled(canvas, gable) * np.float32(toward), BUILDING)
        length = self.span[1] - self.span[0]
        front = facade(self.style, length, self.storeys, texels, sky, grain, rng)
        middle = 0.5 * (max(self.span[0], abs(self.x)) + self.span[1])
        front = _narrowed(front, texels * middle * middle / (camera.focal * max(abs(self.x), 1.0)))
        across = light.factor(light.cosine(-self.side, 0, 0))
        canvas.wall(self.x, self.span, (0.0, self.height), _soiled(canvas, front) * np.float32(across), BUILDING)

    def _draw_roof(self, canvas: Canvas) -> None:
        """A pitched roof with its ridge along the street; the slope shows only where the eye is above its plane."""
        if self.pitch <= 0:
            return
        light, eaves, half = canvas.light, self.height, 0.5 * self.deep
        ridge_x, ridge = self.x + self.side * half, eaves + self.pitch * half
        near, far = self.span
        wall = self.style.wall
        if self.chimney:
            z = near + 0.3 * (far - near)
            box = [(ridge_x + dx, y, z) for dx, y in ((-0.5, ridge - 1), (0.5, ridge - 1), (0.5, ridge + 1.2), (-0.5, ridge + 1.2))]
            canvas.polygon(box, (wall[0] * 0.8, wall[1] * 0.8, wall[2] * 0.8), light.cosine(0, 0, -1), BUILDING)
        end = [(self.x, eaves, near), (ridge_x, ridge, near), (self.x + self.side * self.deep, eaves, near)]
        canvas.polygon(end, wall, light.cosine(0, 0, -1), BUILDING)
        if self.pitch > (eaves - canvas.camera.eye) / max(abs(self.x), 0.5):
            lip = self.x - self.side * 0.3
            slope = [(lip, eaves, near), (lip, eaves, far), (ridge_x, ridge, far), (ridge_x, ridge, near)]
            norm = float(np.hypot(1.0, self.pitch))
            canvas.polygon(slope, self.roof, light.cosine(-self.side * self.pitch / norm, 1 / norm, 0), BUILDING)


def choose_house(rng: Generator, side: int, x: float, start: float, wide_open: bool) -> House:
    """Draw a house whose front begins at z=start; `wide_open` asks for a detached dwelling."""
    style = choose_style(rng)
    storeys = int(rng.integers(0, 3)) if wide_open else int(rng.choice((1, 2, 3, 4, 6), p=(0.2, 0.32, 0.26, 0.15, 0.07)))
    pitched = not style.glazed and storeys < 4 and rng.random() < 0.75
    return House(
        side=side,
        x=x,
        span=(start, start + (rng.uniform(7, 12) if wide_open else rng.uniform(6, 17))),
        deep=rng.uniform(8, 12),
        storeys=storeys,
        pitch=rng.uniform(0.7, 1.15) if pitched else 0.0,
        roof=_ROOFS[int(rng.integers(len(_ROOFS)))],
        chimney=bool(pitched and rng.random() < 0.5),
        style=style,
    )


@dataclass(frozen=True)
class Backdrop:
    """What closes the street at its far end: a row of blocks (left, right, height) of houses or trees."""

    z: float
    blocks: tuple[tuple[float, float, float, bool], ...]
    wall: Colour

    def shadow(self, canvas: Canvas) -> None:
        """Too far away to cast one."""

    def draw(self, canvas: Canvas, grain: Grain, rng: Generator) -> None:
        """Paint the blocks."""
        light = canvas.light
        facing = np.float32(light.factor(light.cosine(0, 0, -1)))
        for left, right, height, wooded in self.blocks:
            tone = rng.normal(0, 10)
            if wooded:
                texture = plain((70 + tone, 92 + tone, 52), 24, 24, 0.16, grain, rng)
                shape = _leafy_top(texture.shape[1], texture.shape[0], grain, rng)
                canvas.front((left, right), self.z, (0.0, height), texture * facing, TREE, shape)
            else:
                albedo = (self.wall[0] + tone, self.wall[1] + tone, self.wall[2] + tone)
                texture = plain(albedo, 24, 16, 0.05, grain, rng)
                texture[3:22:4, 2::4] *= np.float32(0.72)
                canvas.front((left, right), self.z, (0.0, height), texture * facing, BUILDING)


def choose_backdrop(rng: Generator) -> Backdrop:
    """Draw the far end, wide enough for any gap."""
    blocks = []
    x = -140.0
    leafy = rng.uniform(0.1, 0.9)
    while x < 140:
        width = rng.uniform(8, 22)
        wooded = bool(rng.random() < leafy)
        blocks.append((x, x + width + 1, rng.uniform(5, 11) if wooded else rng.uniform(6, 17), wooded))
        x += width
    tone = rng.uniform(110, 180)
    return Backdrop(z=rng.uniform(95, 130), blocks=tuple(blocks), wall=(tone + 6, tone, tone - 8))


def _soiled(canvas: Canvas, picture: Floats) -> Floats:
    """The picture with the scene's dust on it."""
    return picture + np.float32(canvas.light.dustiness) * (np.float32(canvas.light.dust) - picture)


def _narrowed(picture: Floats, factor: float) -> Floats:
    """Average neighbouring columns where the view squeezes `factor` of them into a pixel."""
    step = int(min(factor, picture.shape[1] // 2))
    if step < 2:
        return picture
    kept = picture.shape[1] // step
    averaged: Floats = picture[:, : kept * step].reshape(picture.shape[0], kept, step, 3).mean(axis=2)
    return averaged


def _leafy_top(width: int, height: int, grain: Grain, rng: Generator) -> np.ndarray:
    """A stencil (height, width) whose upper edge is ragged."""
    offset = int(rng.integers(0, grain.size))
    edge = grain.cut(1, width, offset, offset)[0]
    edge = 0.25 * height * np.clip(0.5 + 0.3 * (edge + np.roll(edge, 1) + np.roll(edge, 2)) / 2, 0, 1)
    ragged: np.ndarray = np.arange(height)[:, None] >= edge[None, :]
    return ragged
