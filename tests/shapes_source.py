"""A Source of tiny learnable pictures: a sky, a ground, boxes and discs; independent of every real source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.data.sources import Sample

IGNORED = 7


class Shapes:
    name = "shapes"
    classes = ("sky", "ground", "box", "disc")
    palette = ((120, 170, 230), (90, 90, 90), (200, 60, 50), (230, 200, 40))
    valid_ids = frozenset({0, 1, 2, 3, IGNORED})
    licence = "made by the tests"
    mask_colours = None

    def __init__(self, *, seed: int, size: tuple[int, int], counts: dict[str, int]) -> None:
        self.seed = seed
        self.size = size
        self.counts = counts
        self.label_map: npt.NDArray[np.uint8] = np.full(256, 255, dtype=np.uint8)
        self.label_map[:4] = range(4)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        for index, sample in enumerate(self.samples(folder)):
            image, mask = self._draw(np.random.default_rng([self.seed, index]))
            for path, pixels in ((sample.image, image), (sample.mask, mask)):
                assert path is not None
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            progress(1)

    def samples(self, folder: Path) -> Iterator[Sample]:
        for split, count in self.counts.items():
            for number in range(count):
                name = f"{split}_{number:03d}"
                yield Sample(name, split, folder / f"images/{name}.png", folder / f"masks/{name}.png")

    def _draw(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        height, width = self.size
        rows, columns = np.mgrid[:height, :width]
        mask = (rows > height * rng.uniform(0.4, 0.6)).astype(np.uint8)
        for _ in range(2):
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            mask[(abs(rows - y) < height / 8) & (abs(columns - x) < height / 6)] = 2
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            mask[np.hypot(rows - y, columns - x) < height / 7] = 3
        mask[:, :1] = IGNORED
        colours = np.array(self.palette, dtype=np.float64)[np.minimum(mask, 3)]
        image = np.clip(colours + rng.normal(0, 12, colours.shape), 0, 255).astype(np.uint8)
        return image, mask
