"""Rates of the streets renderer on one core, and what its scenes are made of.

python benchmarks/streets.py [scenes]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from afdcd.data.streets import CLASSES, render

SIZES = ((96, 192), (128, 256), (256, 512))


def rate(size: tuple[int, int], scenes: int) -> float:
    render(0, size=size, difficulty=0.5, classes=11)
    start = time.process_time()
    for seed in range(scenes):
        render(seed, size=size, difficulty=0.5, classes=11)
    return scenes / (time.process_time() - start)


def shares(scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in percent, and the percentage of scenes that hold it."""
    masks = [render(seed, size=(96, 192), difficulty=0.5, classes=11)[1] for seed in range(scenes)]
    counts = np.stack([np.bincount(mask.ravel(), minlength=11) for mask in masks])
    return 100 * counts.sum(0) / counts.sum(), 100 * (counts > 0).mean(0)


def main(scenes: int) -> None:
    print(f"{'size':>10} {'images per CPU-second':>22}")
    for height, width in SIZES:
        print(f"{height:>5}x{width:<4} {rate((height, width), scenes):>22.1f}")
    pixels, present = shares(scenes)
    print(f"\n{'class':<12} {'pixels %':>9} {'scenes %':>9}")
    for name, share, scene in zip(CLASSES[11], pixels, present, strict=True):
        print(f"{name:<12} {share:>9.2f} {scene:>9.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
