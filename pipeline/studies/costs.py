"""What a training step of each recipe costs: `python -m pipeline.studies.costs NAME`, in a study's clone.

Every recipe's training lives in a process of its own, on the real data and the real teacher. They are
stepped in turn, round by round in a new order each, one at a time: what slows the machine slows them all.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from afdcd.errors import UserError
from afdcd.files import write_json
from pipeline import cli, params
from pipeline.checks import CONTROL
from pipeline.launch import count_gpus
from pipeline.studies.definition import Study, load
from pipeline.studies.stepping import Steps, serve

COSTS = Path("study/costs.json")


def main(given: list[str]) -> None:
    """Time the recipes of the study NAME into study/costs.json."""
    (name,) = cli.arguments(given, "NAME")
    study, settings = load(name), params.load()
    (student,) = settings.train.students
    cuda = settings.runtime.device != "cpu" and count_gpus(os.environ) > 0
    before = os.getloadavg()[0]
    samples = measure(study, student)
    write_json(
        COSTS,
        {
            # A CPU's time is what its process used; a GPU works while its process waits.
            "unit": "wall_seconds" if cuda else "cpu_seconds",
            "threads": study.threads,
            "batch_size": settings.train.schedule.batch_size,
            "crop": list(settings.train.practice.augment.crop),
            "load_average_before": round(before, 2),
            "method": study.costs.model_dump(mode="json"),
            "recipes": summary(samples, study.costs.steps),
        },
    )


def measure(study: Study, student: str) -> dict[str, list[Steps]]:
    """`Steps` of every recipe, round by round.

    Raises:
        UserError: a recipe does not fit, or memory does not suffice.
    """
    with _servants(study, student) as pipes:
        for recipe in pipes:
            _stepped(pipes[recipe], recipe, study.costs.warmup)
        samples: dict[str, list[Steps]] = {recipe: [] for recipe in pipes}
        for turn in range(study.costs.rounds):
            shift = turn * 5 % len(study.compared)
            for recipe in (*study.compared[shift:], *study.compared[:shift]):
                samples[recipe].append(_stepped(pipes[recipe], recipe, study.costs.steps))
        return samples


@contextmanager
def _servants(study: Study, student: str) -> Iterator[dict[str, Connection]]:
    """A process a recipe, each forked from one that has imported torch and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.studies.stepping"])
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for recipe in study.compared:
            here, there = context.Pipe()
            process = context.Process(
                target=serve, args=(recipe, student, study.seeds[0], there), daemon=True
            )
            process.start()
            there.close()
            processes.append(process)
            pipes[recipe] = here
            complaint = _received(here, recipe)
            if isinstance(complaint, str):
                raise UserError(f"{recipe}: {complaint}")
        yield pipes
        for pipe in pipes.values():
            pipe.send(0)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()


def _stepped(pipe: Connection, recipe: str, steps: int) -> Steps:
    pipe.send(steps)
    answer = _received(pipe, recipe)
    if isinstance(answer, Steps):
        return answer
    raise UserError(f"{recipe}: {answer}")


def _received(pipe: Connection, recipe: str) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise UserError(f"{recipe}: its process died while it was timed; is there enough memory?") from None


def summary(samples: dict[str, list[Steps]], steps: int) -> dict[str, dict[str, float]]:
    """A step's median over rounds, the fastest and the slowest round, and peak memory less the control's."""
    control = median(sample.cpu_seconds for sample in samples[CONTROL])
    base = max(sample.peak_bytes for sample in samples[CONTROL])
    found = {}
    for recipe, taken in samples.items():
        cpu = [sample.cpu_seconds / steps for sample in taken]
        found[recipe] = {
            "cpu_seconds": round(median(cpu), 5),
            "cpu_seconds_least": round(min(cpu), 5),
            "cpu_seconds_most": round(max(cpu), 5),
            "wall_seconds": round(median(sample.wall_seconds / steps for sample in taken), 5),
            "cpu_ratio": round(median(cpu) * steps / control, 4),
            "peak_mib_above_control": round((max(s.peak_bytes for s in taken) - base) / 2**20, 1),
        }
    return found


if __name__ == "__main__":
    cli.run(main)
