"""The distill stage of the default demo, as it is now and at an earlier commit.

python benchmarks/stage.py                  # 200 iterations, against the commit before the step was made fast
python benchmarks/stage.py 637835d 800      # the whole stage; ten minutes

Both are clones of this repository, with its committed code, in a temporary folder: rendering, preparation and
a short teacher come first; then `python -m pipeline.distill narrow_r18 afdcd 0` runs from its start in turns.
Wall and CPU seconds of the whole process, start and validation included; `iterations` alone is shortened.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from method_time import machine

COMMIT, ITERATIONS, TURNS = "637835d", 200, 3
WHOLE = 800
"""Iterations of the default."""
STUDENT, RECIPE = "narrow_r18", "afdcd"
HERE = Path(__file__).parents[1]


class Turn(NamedTuple):
    """One run of the stage, in seconds."""

    wall: float
    cpu: float


def ran(command: list[str], folder: Path) -> None:
    """A command of a clone; its output is shown only where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {folder} failed:\n{done.stdout[-2000:]}")


def prepared(commit: str, folder: Path, iterations: int) -> Path:
    """A clone at a commit where all stages before distill are done."""
    subprocess.run(["git", "clone", "--quiet", str(HERE), str(folder)], check=True)
    ran(["git", "checkout", "--quiet", commit], folder)
    settings = ["teacher.schedule.iterations=20", "teacher.schedule.validate_every=20"]
    settings += [
        f"train.schedule.iterations={iterations}",
        f"train.schedule.validate_every={iterations // 4}",
    ]
    ran([sys.executable, "-m", "pipeline.configure", "--force", f"recipe=[{RECIPE}]", *settings], folder)
    ran(["dvc", "repro", "--quiet", f"adapt@{RECIPE}"], folder)
    return folder


def timed(folder: Path) -> Turn:
    """Run the stage from its start."""
    shutil.rmtree(folder / "models/trained" / f"{STUDENT}_{RECIPE}_0", ignore_errors=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran([sys.executable, "-m", "pipeline.distill", STUDENT, RECIPE, "0"], folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Turn(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main(commit: str, iterations: int, turns: int = TURNS) -> float:
    """Print both, and return how many times faster the stage is now, by median wall seconds."""
    with tempfile.TemporaryDirectory() as name:
        folders = {
            label: prepared(at, Path(name) / label, iterations)
            for label, at in (("before", commit), ("now", "HEAD"))
        }
        found: dict[str, list[Turn]] = {label: [] for label in folders}
        for _ in range(turns):
            for label, folder in folders.items():
                found[label].append(timed(folder))
    walls = {label: statistics.median(turn.wall for turn in each) for label, each in found.items()}
    where = machine().removeprefix("one thread of ")
    print(f"\ndistill {STUDENT} {RECIPE} 0, {iterations} iterations; two threads of {where}")
    print(f"{'':<10}{'wall s':>9}{'CPU s':>9}")
    for label, each in found.items():
        print(f"{label:<10}{walls[label]:>9.1f}{statistics.median(turn.cpu for turn in each):>9.1f}")
    print(f"{walls['before'] / walls['now']:.2f}x")
    return walls["before"] / walls["now"]


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else COMMIT, int(sys.argv[2]) if sys.argv[2:] else ITERATIONS)
