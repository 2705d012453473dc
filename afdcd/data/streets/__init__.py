"""Street scenes made from a seed: images with exact masks, no download, no licence to mind."""

from __future__ import annotations

from afdcd.data.streets.classes import CLASSES, PALETTES, TO_NINE, ClassCount
from afdcd.data.streets.render import render

__all__ = ["CLASSES", "PALETTES", "TO_NINE", "ClassCount", "render"]
