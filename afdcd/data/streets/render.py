"""From a seed to an image and its mask."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from afdcd.config import Size
from afdcd.data.streets.camera import Camera
from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.classes import TO_NINE, ClassCount
from afdcd.data.streets.ground import paint_ground
from afdcd.data.streets.light import paint_sky
from afdcd.data.streets.noise import Floats, Grain, rgb
from afdcd.data.streets.plan import Scene, plan_scene

Bytes = NDArray[np.uint8]

_SUPER = 2
"""Canvas pixels per image pixel, along each axis."""

# how strongly fine noise shows on each class (sky .. bicyclist)
_TEXTURE = np.array([0.0, 0.012, 0.02, 0.012, 0.014, 0.06, 0.012, 0.03, 0.015, 0.03, 0.03], dtype=np.float32)


def render(seed: int, *, size: Size, difficulty: float, classes: ClassCount) -> tuple[Bytes, Bytes]:
    """Render one street scene: the same arguments give the same bits, in whatever process.

    Args:
        seed: number of the scene, 0 or more; every size shows the same scene.
        size: (height, width) of the image in pixels.
        difficulty: 0..1; scales noise, shadows, clutter, distances and how alike the classes look.
        classes: 11 for CamVid's ids, 9 for those with poles and signs, pedestrians and cyclists merged.

    Returns:
        The RGB image (H, W, 3) and the class ids (H, W), both uint8.
    """
    plan_rng, air_rng, film_rng = np.random.default_rng(seed).spawn(3)
    scene = plan_scene(plan_rng, difficulty)
    canvas = _paint(scene, size, air_rng)
    mask = np.asarray(canvas.mask)[_SUPER // 2 :: _SUPER, _SUPER // 2 :: _SUPER].copy()
    image = _expose(np.asarray(canvas.image.reduce(_SUPER)), mask, film_rng, difficulty)
    return image, TO_NINE[mask] if classes == 9 else mask


def _paint(scene: Scene, size: Size, rng: Generator) -> Canvas:
    """Paint sky, ground and things on a canvas `_SUPER` times the size."""
    height, width = size[0] * _SUPER, size[1] * _SUPER
    view = scene.view
    # the square root keeps the same share of the street in view for tall and for wide images
    focal = view.focal * math.sqrt(2 * height * width)
    camera = Camera(width, height, focal, view.across * width, view.down * height, view.eye)
    grain = Grain(rng)
    canvas = Canvas(camera, scene.light)
    canvas.image.paste(Image.fromarray(paint_sky(scene.light, rng, math.ceil(camera.cy) + 1, width)))
    for layer in scene.layers:
        for thing in layer:
            thing.shadow(canvas)
    paint_ground(canvas, scene.street, grain)
    for layer in scene.layers:
        for thing in sorted(layer, key=lambda thing: -thing.z):
            thing.draw(canvas, grain)
    return canvas


def _expose(picture: Bytes, mask: Bytes, rng: Generator, difficulty: float) -> Bytes:
    """What the camera adds: white balance and contrast, texture below its resolution, vignette, noise."""
    height, width = mask.shape
    warmth, tint = rng.normal(0, 0.035), rng.normal(0, 0.012)
    gamma, contrast, lift = rng.uniform(0.85, 1.2), rng.uniform(0.88, 1.15), rng.normal(0, 0.02)
    noise = 255 * 0.045 * difficulty * rng.uniform(0.5, 1.0)
    ramp = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 / 255)
    curve = np.minimum(ramp * rgb((1 + warmth, 1 + tint, 1 - warmth)), 1) ** np.float32(gamma)
    curve = np.float32(255) * ((curve - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + lift))
    image: Floats = curve[picture, np.arange(3)]
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)
    shot = rng.standard_normal((height, width), dtype=np.float32)
    texture = 1 + _TEXTURE[mask] * np.float32(0.5 + difficulty) * shot
    image *= (texture * (1 - np.float32(0.07) * (rows * rows + columns * columns)))[..., None]
    image += np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 255) + np.float32(0.5)).astype(np.uint8)
