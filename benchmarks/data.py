"""The data path: 512x1024 crops of 1024x2048 PNG images, ours against the plain way of the released code.

python benchmarks/data.py          # about two minutes
python benchmarks/data.py 60       # crops of each form

One core; the forms take turns, so that all meet the same machine. Images with the noise of a camera and masks
of 34 raw ids are made anew in a temporary folder. Scales are 0.5 to 2, as for Cityscapes.

The released way reads both files, maps the whole mask to train ids with a pass an id, scales all of both
(uint8, bilinear), subtracts the mean in float, pads, crops, transposes, mirrors and copies; "float" is the
same with the image scaled in float32. Ours ends with uint8 and leaves normalisation to the device; the last
line adds it, for a machine without one.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from afdcd.config import AugmentConfig, Normalisation
from afdcd.data import transforms
from afdcd.data.decoded import open_decoded
from afdcd.data.manifest import DatasetInfo, Entry, Manifest
from afdcd.files import sha256
from afdcd.models.segmenter import Normalise

SIZE, IDS, IMAGES, CROPS = (1024, 2048), 34, 8, 48
MEAN = (104.00698793, 116.66876762, 122.67891434)
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
TRAIN_IDS |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
SETTINGS = {
    "crop": (512, 1024),
    "scale": (0.5, 2.0),
    "flip": 0.5,
    "balanced": 0.0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
}
WINDOW = AugmentConfig.model_validate(SETTINGS | {"order": "window", "fill": (0, 0, 0)})
RELEASED = AugmentConfig.model_validate(SETTINGS | {"order": "released", "fill": MEAN[::-1]})
JITTER = WINDOW.model_copy(update={"brightness": 0.2, "contrast": 0.2, "saturation": 0.2})


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth shapes with the noise of a camera, and a mask of large areas."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
    image = (smooth + rng.normal(0, 2, smooth.shape)).clip(0, 255).astype(np.uint8)
    areas = Image.fromarray(rng.integers(0, IDS, (16, 32), dtype=np.uint8))
    return image, np.asarray(areas.resize(SIZE[::-1], Image.Resampling.NEAREST))


def write_set(folder: Path) -> Manifest:
    entries = []
    for seed in range(IMAGES):
        paths = folder / f"image_{seed}.png", folder / f"mask_{seed}.png"
        for pixels, path in zip(picture(seed), paths, strict=True):
            Image.fromarray(pixels).save(path)
        entries.append(Entry(str(seed), "train", *paths, *SIZE, sha256(paths[0]), sha256(paths[1])))
    info = DatasetInfo(
        name="generated",
        classes=tuple(str(number) for number in range(19)),
        palette=tuple((number, number, number) for number in range(19)),
        label_map=tuple(TRAIN_IDS.get(raw, 255) for raw in range(256)),
        mask_colours=None,
        ignore_index=255,
        licence="none",
        root=None,
        splits={"train": IMAGES},
        class_pixels={"train": [1] * 19},
        class_image_pixels={"train": [1] * 19},
        ignored_pixels={"train": 0},
    )
    return Manifest(folder, info, entries, "0" * 64)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng([1, 0, seed, 0])


def released_way(entry: Entry, seed: int, *, in_float: bool) -> Tensor:
    """One sample by plain steps over the whole image; the draws are those of our forms."""
    scale, *places, mirror = draws(seed).random(4)
    with Image.open(entry.image) as file:
        image = np.array(file.convert("RGB"))
    assert entry.mask is not None
    with Image.open(entry.mask) as file:
        raw = np.asarray(file)
    ids = raw.astype(np.int32)
    for raw_id in range(-1, IDS):
        ids[raw == raw_id] = TRAIN_IDS.get(raw_id, -1)
    factor = 0.5 + int(scale * 16) / 10
    height, width = (round(length * factor) for length in SIZE)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    planes = planes.float() if in_float else planes
    large = F.interpolate(planes, size=(height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    rows, columns = np.arange(height) * SIZE[0] // height, np.arange(width) * SIZE[1] // width
    ids = ids.take(rows, 0).take(columns, 1)
    values = np.asarray(large, np.float32)[..., ::-1] - np.array(MEAN)
    pad = [(0, max(0, 512 - height)), (0, max(0, 1024 - width))]
    if any(after for _, after in pad):
        values, ids = np.pad(values, (*pad, (0, 0))), np.pad(ids, pad, constant_values=-1)
    top, left = (
        int(place * (outer - inner + 1))
        for place, outer, inner in zip(places, ids.shape, (512, 1024), strict=True)
    )
    crop = np.s_[top : top + 512, left : left + 1024]
    step = -1 if mirror < 0.5 else 1
    planar = np.asarray(values[crop], np.float32).transpose(2, 0, 1)[:, :, ::step].copy()
    labels = np.asarray(ids[crop], np.float32)[:, ::step].copy()
    assert labels.shape == planar.shape[1:]
    return torch.from_numpy(planar)


def main(crops: int) -> dict[str, float]:
    """Measure all forms, print them, and return their median seconds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_set(folder)
        entries = manifest.split("train")
        decoded = open_decoded(manifest, folder / "decoded", 2**40)
        assert decoded is not None
        normalise = Normalise(Normalisation(order="bgr", mean=MEAN, std=(1, 1, 1)))

        def ours(config: AugmentConfig, *, cached: bool) -> Callable[[int], Tensor]:
            def make(seed: int) -> Tensor:
                entry = entries[seed % IMAGES]
                sample = (
                    decoded.sample(entry) if cached else (manifest.image(entry), manifest.raw_labels(entry))
                )
                image, _ = transforms.augment(*sample, manifest.label_map, config, draws(seed))
                slot = np.empty(image.shape, image.dtype)
                slot[:] = image
                return torch.from_numpy(slot).permute(2, 0, 1)

            return make

        window = ours(WINDOW, cached=True)
        forms: dict[str, Callable[[int], Tensor]] = {
            "released way": lambda seed: released_way(entries[seed % IMAGES], seed, in_float=False),
            "released way, float": lambda seed: released_way(entries[seed % IMAGES], seed, in_float=True),
            "window": ours(WINDOW, cached=False),
            "window, cached": window,
            "window, cached, jitter": ours(JITTER, cached=True),
            "order released, cached": ours(RELEASED, cached=True),
            "window, cached, normalised": lambda seed: normalise(window(seed)[None])[0],
        }
        times: dict[str, list[float]] = {form: [] for form in forms}
        for make in forms.values():
            make(0)
        for seed in range(crops):
            for form, make in forms.items():
                start = time.process_time()
                made = make(seed)
                times[form].append(time.process_time() - start)
                assert made.shape == (3, 512, 1024)
    print(f"{crops} crops of each form; CPU milliseconds; {os.cpu_count()} cores\n")
    print(f"{'form':<28}{'median':>9}{'ratio':>8}{'mean':>9}{'ratio':>8}{'img/s per core':>16}")
    plain = times["released way"]
    for form, seconds in times.items():
        middle, mean = statistics.median(seconds), statistics.mean(seconds)
        ratios = statistics.median(plain) / middle, statistics.mean(plain) / mean
        print(
            f"{form:<28}{1e3 * middle:>9.1f}{ratios[0]:>7.1f}x{1e3 * mean:>9.1f}{ratios[1]:>7.1f}x"
            f"{1 / mean:>16.1f}"
        )
    return {form: statistics.median(seconds) for form, seconds in times.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CROPS)
