"""What we set out to reach, measured in one go: every row against the released form in the same run.

python benchmarks/reach.py             # many minutes on one free core
python benchmarks/reach.py contrast    # some rows: contrast, projector, step, data, stage

Few turns of the files that it calls, which have the details and more turns. Rows of a GPU are measured where
there is one, as far as their file can; else they stand as not measured. Engines and serving have their own:
`engines.py`, `serving.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import contrast
import projector
import stage
import torch
from method_time import machine
from peak import peak
from step import table as steps_of

import data
from afdcd.losses.contrast.forms import chosen
from afdcd.training.precision import multiplies_bf16

SPEED = {"cityscapes, whole": 3.5, "camvid": 4.0, "narrow, whole": 4.0}
MEMORY = ("cityscapes", "camvid", "narrow")
"""The contrast by itself, without the pooling before it."""


class Row(NamedTuple):
    """A figure against what was asked; `found` is None where it was not measured."""

    what: str
    found: float | None
    least: float
    aim: float
    unit: str = "x"
    below: bool = False

    def line(self) -> str:
        if self.found is None:
            return (
                f"| {self.what} | not measured | {self._figure(self.least)} | {self._figure(self.aim)} | - |"
            )
        met = [(self.found <= x) if self.below else (self.found >= x) for x in (self.least, self.aim)]
        verdict = "aim met" if met[1] else "met" if met[0] else "**missed**"
        figures = " | ".join(map(self._figure, (self.found, self.least, self.aim)))
        return f"| {self.what} | {figures} | {verdict} |"

    def _figure(self, value: float) -> str:
        return f"{value:.0f} GMACs" if self.unit == "GMACs" else f"{value:.2f}x"


def contrasts() -> Iterator[Row]:
    torch.set_num_threads(1)
    contrast.ROUNDS = 3
    form = chosen(torch.device("cpu"))
    for shape, least in SPEED.items():
        yield Row(
            f"contrast, CPU, {shape}: faster ({form})", contrast.times(shape, "cpu", form)[form][1], least, 6
        )
    for shape in MEMORY:
        held = [max(0.1, contrast.extra_memory(each, shape, "cpu")) for each in ("released way", form)]
        yield Row(f"contrast, CPU, {shape}: less extra memory ({form})", held[0] / held[1], 8, 20)
    for shape in SPEED:
        faster = leaner = None
        if torch.cuda.is_available():
            contrast.FORMS["triton"] = contrast.ours("triton")
            faster = contrast.times(shape, "cuda", "triton")["triton"][1]
            held = [contrast.extra_memory(each, shape, "cuda") for each in ("released way", "triton")]
            leaner = held[0] / held[1]
        yield Row(f"contrast, GPU, {shape}, batch {contrast.GPU_BATCH}: faster", faster, 5, 15)
        yield Row(f"contrast, GPU, {shape}, batch {contrast.GPU_BATCH}: less extra memory", leaner, 50, 50)


def projectors() -> Iterator[Row]:
    torch.set_num_threads(1)
    found = projector.count()
    yield Row("projector, exact, an image of 512x1024, CPU", found["ours"], 1190, 1000, "GMACs", below=True)
    yield Row("projector, exact, GPU's form", found["folded alone"], 1190, 1000, "GMACs", below=True)


def crops() -> Iterator[Row]:
    found = data.main(12)
    for form in ("released way", "released way, float"):
        ratio = found[form] / found["window, cached"]
        yield Row(f"data path, a crop of 512x1024, to the {form}", ratio, 15, 25)


def steps() -> Iterator[Row]:
    forms = ["baseline", "ours, fp32", *(["ours, bf16"] if multiplies_bf16("cpu") else [])]
    for form, ratio in list(steps_of("r101_r18", forms).items())[1:]:
        told = f"{form}, the default here" if form == forms[-1] else form
        yield Row(f"full step, CPU, 128x256, R101 -> R18, batch 2 ({told})", ratio, 2.2, 3)
    for against, least, aim in (("fp32-TF32", 2.5, 5), ("bf16", 1.5, 2.5)):
        what = f"full step, GPU, 512x1024, batch 16, to the baseline in {against}"
        yield Row(what, None, least, aim)


def stages() -> Iterator[Row]:
    ratio = stage.main(stage.COMMIT, stage.WHOLE, turns=2)
    yield Row(f"default demo's distill stage, wall, to {stage.COMMIT}", ratio, 2, 2)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "contrast": contrasts,
    "projector": projectors,
    "step": steps,
    "data": crops,
    "stage": stages,
}


def measured(part: str) -> list[Row]:
    """The rows of a part, from a Python of its own: torch's threads do not outlive a fork."""
    command = [sys.executable, __file__, "--rows", part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if not line.startswith("["):
                print(line, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return [Row(*row) for row in json.loads(lines[-1])]


def main(given: list[str]) -> None:
    if given[:1] == ["--rows"]:
        print(json.dumps(list(PARTS[given[1]]())))
        return
    unknown = [name for name in given if name not in PARTS]
    if unknown:
        sys.exit(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    rows = [row for name in given or PARTS for row in measured(name)]
    print(f"\n{machine()}; {peak():.0f} GMAC/s at most in float32\n")
    print("| what | found | at least | aim | |\n|---|---|---|---|---|")
    for row in rows:
        print(row.line())


if __name__ == "__main__":
    main(sys.argv[1:])
