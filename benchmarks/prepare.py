"""Pace and memory of prepare on generated files in COCO-Stuff's layout, and what a kill half-way costs.

python benchmarks/prepare.py [tiny images]     118287 is the size of COCO-Stuff-164K's train split

Files are written for it and removed afterwards (8 KB an image on most disks). Each line is a process of its
own, without torch, and says the most memory that it held.
Tiny images show the cost of the bookkeeping, those of 480x640 that of decoding; nothing is extrapolated.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peak import held
from PIL import Image

from afdcd.data.prepare import Keep, prepare
from afdcd.data.sources.coco_stuff import UNUSED, CocoStuff

VAL = 16
DIFFERENT = 64
"""Pictures that are drawn; the files take turns with them."""

LABELS = np.array([raw for raw in range(182) if raw not in UNUSED], dtype=np.uint8)


def picture(seed: int, size: tuple[int, int]) -> tuple[bytes, bytes]:
    """A smooth photograph as JPEG, and patches of labels as PNG."""
    rng = np.random.default_rng(seed)
    across = size[::-1]
    colours = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    labels = Image.fromarray(rng.choice(LABELS, (6, 8)))
    files = io.BytesIO(), io.BytesIO()
    colours.resize(across, Image.Resampling.BICUBIC).save(files[0], "JPEG", quality=90)
    labels.resize(across, Image.Resampling.NEAREST).save(files[1], "PNG")
    return files[0].getvalue(), files[1].getvalue()


def write_set(root: Path, images: int, size: tuple[int, int]) -> None:
    contents = [picture(seed, size) for seed in range(DIFFERENT)]
    for split, count in {"train": images, "val": VAL}.items():
        folders = root / f"images/{split}2017", root / f"annotations/{split}2017"
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(count):
            for folder, suffix, content in zip(
                folders, (".jpg", ".png"), contents[number % DIFFERENT], strict=True
            ):
                (folder / f"{number:012}{suffix}").write_bytes(content)


def child(folder: Path) -> None:
    """Prepare and say what it cost; the parent reads the last line."""
    done = 0

    def progress(what: str, total: int, newly: int) -> None:
        nonlocal done
        done += newly
        if done % 500 == 0:
            print(json.dumps({"done": done, "total": total}), flush=True)

    start, cpu = time.monotonic(), time.process_time()
    source = CocoStuff(folder / "root", seed=0, holdout=1, partial=True, unused=False)
    keep = Keep(folder / "journal.sqlite", "benchmark")
    info = prepare(source, root=folder / "root", folder=folder / "prepared", progress=progress, keep=keep)
    cost = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu, "held": held()}
    print(json.dumps(cost | {"images": sum(info.splits.values())}))


def run(folder: Path, stop_at: int | None = None) -> dict[str, Any]:
    """The last figures of a child; killed when it has checked `stop_at` images."""
    figures: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, __file__, "--child", str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            figures = json.loads(line)
            if stop_at is not None and figures.get("done", 0) >= stop_at:
                process.send_signal(signal.SIGKILL)
                break
    return figures


def show(name: str, figures: dict[str, Any]) -> None:
    pace = figures["images"] / figures["seconds"]
    each = 1000 * figures["cpu"] / figures["images"]
    print(
        f"{name:<34} {figures['images']:>8} {figures['seconds']:>9.1f} {pace:>9.0f} {each:>12.2f} "
        f"{figures['held']:>9.1f}",
        flush=True,
    )


def main(images: int) -> None:
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'files':<34} {'images':>8} {'seconds':>9} {'images/s':>9} {'CPU ms each':>12} {'peak MiB':>9}",
        flush=True,
    )
    sets = {
        "480x640": (400, (480, 640)),
        "32x48, an eighth": (max(1, images // 8), (32, 48)),
        "32x48": (images, (32, 48)),
    }
    for name, (count, size) in sets.items():
        folder = Path(tempfile.mkdtemp(prefix="prepare"))
        try:
            write_set(folder / "root", count, size)
            show(name, run(folder))
            if name == "32x48":
                shutil.rmtree(folder / "prepared")
                stopped = run(folder, count // 2)["done"]
                show(f"32x48, after a kill at {stopped}", run(folder))
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 16000)
