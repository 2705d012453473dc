"""Where the milliseconds of the default's step by the recipe `afdcd` go, part by part.

python benchmarks/parts.py

Wall milliseconds on one thread and on two, in the precision that `auto` means here; medians of steps after
some that are not counted. Each number of threads has a process of its own. The graph is cut between the
parts, so that each has a backward pass of its own. Making a batch is not in it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from method_time import PAIRS, images, machine
from step import parts_of
from torch import Tensor

from afdcd.losses.method import ParamGroup, Target
from afdcd.losses.objective import build_objective
from afdcd.models.output import SegOutput
from afdcd.training.memory import keep_freed_memory
from afdcd.training.native_modules import native_modules
from afdcd.training.optimisation import build_optimiser
from afdcd.training.optimisation import step as update
from afdcd.training.precision import Precision, multiplies_bf16
from afdcd.training.teacher import FrozenTeacher

WARM_UP, STEPS = 8, 32


def cut(tensor: Tensor) -> Tensor:
    """The same values at the start of a graph of their own."""
    return tensor.detach().requires_grad_()


def measure() -> dict[str, float]:
    """Milliseconds by part."""
    keep_freed_memory()
    pair = PAIRS["demo"]
    parts, batch = parts_of(pair), images(pair)
    objective = build_objective(parts.recipe, parts.context)
    parts.teacher.to(memory_format=torch.channels_last)
    precision = Precision("cpu", multiplies_bf16("cpu"))
    frozen = FrozenTeacher(parts.teacher, objective.teacher_stop, precision)
    for trained in (parts.student, objective):
        trained.to(memory_format=torch.channels_last).train()
    groups = [ParamGroup(list(parts.student.parameters()), clip=False), *objective.param_groups()]
    optimiser, target = build_optimiser(parts.optimiser, groups), Target(batch.labels.long(), batch.keys)
    taken: dict[str, list[float]] = defaultdict(list)

    def part(name: str, work: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        found = work(*given)
        taken[name].append(1e3 * (time.perf_counter() - start))
        return found

    def added(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        return torch.stack([value * weights[name] for name, value in terms.items()]).sum()

    def supervised(output: SegOutput) -> Tensor:
        return added(*parts.supervision(output, target.labels))

    def distilled(output: SegOutput, teacher: SegOutput) -> Tensor:
        return added(objective(output, teacher, target), objective.weights)

    for _ in range(WARM_UP + STEPS):
        optimiser.zero_grad()
        teacher = part("teacher", frozen.start, batch.images)()
        with precision.context():
            with native_modules(parts.student):
                whole = part("student, forward", parts.student, batch.images)
            ends = [whole.logits, whole.aux, whole.features[-1]]
            cuts = list(map(cut, ends))
            features = (*map(cut, whole.features[:-1]), cuts[2])
            output = whole._replace(logits=cuts[0], aux=cuts[1], features=features)
            losses = {
                "cross-entropy": part("cross-entropy, forward", supervised, output),
                "objective": part("objective, forward", distilled, output, teacher),
            }
        for name, loss in losses.items():
            part(f"{name}, backward", loss.backward)
        part("student, backward", torch.autograd.backward, ends, [each.grad for each in cuts])
        part("optimiser", update, optimiser)
    return {name: statistics.median(each[WARM_UP:]) for name, each in taken.items()}


def main() -> None:
    columns = []
    for threads in (1, 2):
        done = subprocess.run(
            [sys.executable, __file__, str(threads)], stdout=subprocess.PIPE, text=True, check=True
        )
        columns.append(dict(line.split("\t") for line in done.stdout.splitlines()))
    print(f"{machine().removeprefix('one thread of ')}\n\n| part | one thread | two threads |\n|---|---|---|")
    for name, one in columns[0].items():
        print(f"| {name} | {float(one):.1f} | {float(columns[1][name]):.1f} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        torch.set_num_threads(int(sys.argv[1]))
        for name, milliseconds in measure().items():
            print(name, milliseconds, sep="\t")
    else:
        main()
