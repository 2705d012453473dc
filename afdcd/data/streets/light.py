"""Weather, sun and haze: how an albedo becomes a colour on the canvas, and the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afdcd.data.streets.chance import pick, sign
from afdcd.data.streets.noise import clouds

Colour = tuple[float, float, float]
Bytes = NDArray[np.uint8]

# zenith, horizon, colour of the sun, cloud cover, share of the sun
_WEATHER: tuple[tuple[Colour, Colour, Colour, float, float], ...] = (
    ((84, 138, 204), (192, 214, 232), (1.05, 1.00, 0.90), 0.35, 1.0),
    ((112, 158, 208), (208, 222, 232), (1.04, 1.00, 0.93), 0.7, 0.9),
    ((150, 178, 204), (222, 226, 226), (1.03, 1.00, 0.95), 0.5, 0.6),
    ((172, 178, 186), (210, 213, 216), (1.00, 1.00, 1.00), 0.9, 0.0),
    ((126, 136, 150), (190, 196, 202), (1.00, 1.00, 1.02), 1.0, 0.0),
    ((122, 146, 186), (242, 212, 172), (1.14, 0.98, 0.78), 0.5, 0.9),
)


@dataclass(frozen=True)
class Light:
    """Light of one scene. `sun` is per unit of cosine; `toward` points to the sun; `fog` is per metre."""

    zenith: Colour
    horizon: Colour
    cover: float
    ambient: Colour
    sun: Colour
    toward: tuple[float, float, float]
    fog: float
    dust: Colour
    dustiness: float

    def cosine(self, x: float, y: float, z: float) -> float:
        """How squarely the sun meets a surface of normal (x, y, z): 0 for one that is turned away."""
        return max(0.0, x * self.toward[0] + y * self.toward[1] + z * self.toward[2])

    def factor(self, cosine: float) -> Colour:
        """What an albedo is multiplied by under that cosine."""
        a, s = self.ambient, self.sun
        return (a[0] + s[0] * cosine, a[1] + s[1] * cosine, a[2] + s[2] * cosine)

    def soil(self, albedo: Colour) -> Colour:
        """The albedo, pulled towards the dust that all things of a hard scene share."""
        k, d = self.dustiness, self.dust
        return (
            albedo[0] + k * (d[0] - albedo[0]),
            albedo[1] + k * (d[1] - albedo[1]),
            albedo[2] + k * (d[2] - albedo[2]),
        )

    def shade(self, albedo: Colour, cosine: float, z: float) -> tuple[int, int, int]:
        """The colour on the canvas of an albedo (0..255) under that cosine, z metres away in the haze."""
        clear = math.exp(-self.fog * z)
        soiled, lit, haze = self.soil(albedo), self.factor(cosine), self.horizon
        red = soiled[0] * lit[0] * clear + haze[0] * (1 - clear)
        green = soiled[1] * lit[1] * clear + haze[1] * (1 - clear)
        blue = soiled[2] * lit[2] * clear + haze[2] * (1 - clear)
        return (min(255, int(red)), min(255, int(green)), min(255, int(blue)))

    @property
    def casts(self) -> bool:
        """Whether the sun is out, so that things cast shadows."""
        return self.sun[1] > 0.3


def choose_light(rng: Generator, difficulty: float) -> Light:
    """Draw the weather of a scene; harder scenes have deeper shadows, more haze and more dust."""
    zenith, horizon, tint, cover, share = pick(rng, _WEATHER, (0.26, 0.22, 0.14, 0.15, 0.08, 0.15))
    azimuth = rng.uniform(0.35, 0.95) * math.pi * sign(rng)
    elevation = rng.uniform(0.55, 1.05) * (0.75 if tint[0] > 1.1 else 1.0)
    toward = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    level = rng.uniform(1.0, 1.2) * (1.0 if share else 0.92)
    sunny = level * share * (0.44 + 0.32 * difficulty) * rng.uniform(0.85, 1.15)
    ambient = level - 0.72 * sunny
    strength = sunny if share else 0.12
    grey = rng.uniform(95, 150)
    return Light(
        zenith=zenith,
        horizon=horizon,
        cover=cover * rng.uniform(0.4, 1.2),
        ambient=(ambient * 0.97, ambient, ambient * 1.04),
        sun=(strength * tint[0], strength * tint[1], strength * tint[2]),
        toward=toward,
        fog=max(0.0008, rng.normal(0.003, 0.003) * (0.5 + difficulty)) + (0.0 if share else 0.002),
        dust=(grey + rng.normal(0, 8), grey, grey + rng.normal(0, 8)),
        dustiness=0.4 * difficulty * rng.uniform(0.3, 1.0),
    )


def paint_sky(light: Light, rng: Generator, height: int, width: int) -> Bytes:
    """The sky (H, W, 3) down to the horizon: a gradient, and clouds that thin out towards its foot."""
    rows = (np.arange(height, dtype=np.float32) / height)[:, None]
    gradient = (rows**1.4)[..., None]
    sky = (
        np.asarray(light.zenith, np.float32) * (1 - gradient)
        + np.asarray(light.horizon, np.float32) * gradient
    )
    noise = clouds(rng, height, width, [(3, 3), (5, 7), (11, 15), (22, 34)], 0.55)
    density = np.clip((noise + np.float32(light.cover * 0.45 - 0.12)) * 2.6, 0, 1) * (1 - 0.7 * rows)
    # the underside of a cloud is darker than its top: compare with the noise a little higher up
    relief = np.clip(noise - np.roll(noise, max(1, height // 20), axis=0), -0.25, 0.25)
    white = np.float32(236) + np.float32(110) * relief - np.float32(30 * light.cover)
    sky = sky + density[..., None] * (white[..., None] - sky)
    painted: Bytes = np.clip(sky, 0, 255).astype(np.uint8)
    return painted
