"""Start a training stage in one process or, through torchrun, in several, on one machine or more.

Usage: `python -m pipeline.launch [--parent=PID] MODULE ARGUMENTS`.

How many is `runtime.processes` in params.yaml on each of `runtime.nodes` machines, which no stage tracks: the
number of GPUs changes speed and re-runs nothing. On several machines the same stage is started on each;
docs/distributed.md says how. `--parent` names the process that asks for the stage: with its death the
training ends, even if it dies before this one has started.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from afdcd.config import RuntimeConfig
from afdcd.errors import UserError
from pipeline import cli
from pipeline.params import load
from pipeline.parent import end_with_parent

GPUS = Path("/proc/driver/nvidia/gpus")


def count_gpus(environment: Mapping[str, str], folder: Path = GPUS) -> int:
    """NVIDIA GPUs that a process may use, without importing torch.

    CUDA_VISIBLE_DEVICES, CUDA's own variable, hides GPUs; CUDA stops reading it at a negative number.
    """
    present = len(list(folder.iterdir())) if folder.is_dir() else 0
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return present
    names = [name.strip() for name in visible.split(",")]
    usable = next((n for n, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return min(usable, present) if all(name.isdigit() for name in names[:usable]) else usable


def count_processes(runtime: RuntimeConfig, gpus: int) -> int:
    """`runtime.processes`, where auto is one a GPU, and one on a CPU."""
    if runtime.processes != "auto":
        return runtime.processes
    return 1 if runtime.device == "cpu" else max(1, gpus)


def count_threads(runtime: RuntimeConfig, processes: int) -> int:
    """`runtime.threads` of one process, where auto shares the cores that this process may use."""
    if runtime.threads != "auto":
        return runtime.threads
    return max(1, len(os.sched_getaffinity(0)) // processes)


def node_mistakes(runtime: RuntimeConfig) -> Iterator[str]:
    """Settings of several machines that cannot work, a sentence each."""
    port = int(runtime.rendezvous.rpartition(":")[2]) if runtime.rendezvous else 1
    if runtime.nodes > 1 and runtime.rendezvous is None:
        yield (
            f"runtime.nodes: {runtime.nodes} need a place to meet; set runtime.rendezvous to host:port of "
            "one of them, for instance node1:29400"
        )
    if runtime.nodes == 1 and runtime.rendezvous is not None:
        yield (
            f"runtime.rendezvous: {runtime.rendezvous} is of no use to one node; set runtime.nodes to how "
            "many there are, or rendezvous to null"
        )
    if port > 65535:
        yield f"runtime.rendezvous: {runtime.rendezvous} has no such port; take one from 1024 to 65535"


def main(given: list[str]) -> None:
    """Run the module named first with the other arguments.

    Raises:
        UserError: no such module, or a process failed with a sentence of its own.
    """
    parent, command = _parent(given)
    end_with_parent(parent)
    if not command or not _exists(command[0]):
        raise UserError(
            "usage: python -m pipeline.launch [--parent=PID] MODULE ARGUMENTS; "
            f"got {' '.join(given) or 'nothing'}"
        )
    runtime = load().runtime
    if mistakes := list(node_mistakes(runtime)):
        raise UserError("; ".join(mistakes))
    processes = count_processes(runtime, count_gpus(os.environ))
    if processes * runtime.nodes == 1:
        os.execv(sys.executable, [sys.executable, "-m", *command])
    from pipeline.torchrun import Group, start

    threads = count_threads(runtime, processes)
    start(Group(processes, runtime.nodes, runtime.rendezvous, runtime.restarts, threads), command)


def _parent(given: list[str]) -> tuple[int | None, list[str]]:
    """The process that `--parent` names, and the command after it."""
    if given and (found := re.fullmatch(r"--parent=(\d+)", given[0])):
        return int(found[1]), given[1:]
    return None, given


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    cli.run(main)
