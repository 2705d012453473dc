"""The process that runs one model of a benchmark and times its calls; `deploy.benchmark` starts it.

A process each, so that one engine's threads, memory and faults touch no other's figures.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from deploy.anyones import Stream, Wish, open_file
from deploy.scenarios import Scenario, run
from deploy.sessions import open_session

Images = npt.NDArray[np.uint8]


class Subject(NamedTuple):
    """A model to measure: a bundle's folder, or an ONNX file with engine and open shapes."""

    name: str
    path: Path
    threads: int
    engine: str = "onnxruntime"
    shapes: tuple[Wish, ...] = ()


RUNS = 4
"""After every so many-th call from end to end the engine's own run is timed: both under the same load."""


class Turn(NamedTuple):
    """What is asked for: so many calls, and runs of the engine alone between them."""

    calls: int


class Times(NamedTuple):
    """What came of a turn: (wall, CPU) nanoseconds of the calls, milliseconds of the engine's own runs."""

    calls: list[tuple[int, int]]
    runs: list[float]


class Memory(NamedTuple):
    """Resident memory of the worker, MiB: before the engine was opened, and at most."""

    before: float | None
    peak: float | None


def memory_mib(field: str) -> float | None:
    """A field of /proc/self/status in MiB; None where there is none.

    Not getrusage: its maximum is inherited from the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), None)
    return None if found is None else round(int(found) / 1024, 2)


def _open_bundle(subject: Subject, batches: Sequence[Images], stack: ExitStack) -> Stream:
    """Calls of a bundle's engine on the batches in turn, each uint8 (B, H, W, 3)."""
    session = stack.enter_context(open_session(subject.path, threads=subject.threads))
    turns = itertools.cycle(batches)
    return Stream(lambda: session.infer(next(turns)), lambda: session.compute_ms(next(turns)))


def _open(subject: Subject, batches: Sequence[Images], stack: ExitStack, *, streams: int) -> list[Stream]:
    """Calls that may run at the same time: each stream of a bundle has a session of its own."""
    if subject.path.is_dir():
        return [_open_bundle(subject, batches, stack) for _ in range(streams)]
    return open_file(
        subject.path, subject.engine, threads=subject.threads, wishes=subject.shapes, streams=streams
    )


def time_calls(call: Callable[[], object], count: int) -> list[tuple[int, int]]:
    """Wall and process CPU time of each of `count` calls, nanoseconds."""
    times = []
    for _ in range(count):
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - wall, time.process_time_ns() - cpu))
    return times


def time_turn(stream: Stream, count: int) -> Times:
    """Time `count` calls, and the engine alone after each first of `RUNS`; no runs where that cannot be."""
    times = Times([], [])
    alone = stream.compute_ms() is not None  # not counted: the first has inputs and outputs to place
    for index in range(count):
        times.calls.extend(time_calls(stream, 1))
        if alone and index % RUNS == 0 and (took := stream.compute_ms()) is not None:
            times.runs.append(took)
    return times


def work(connection: Connection) -> None:
    """Open the engine that is asked for, then do as told: time calls or runs, or bear a load; 0 ends it."""
    subject, batches = connection.recv()
    before = memory_mib("VmRSS")
    try:
        with ExitStack() as stack:
            start = time.perf_counter_ns()
            (opened,) = _open(subject, batches, stack, streams=1)
            opened()
            connection.send(time.perf_counter_ns() - start)
            gc.collect()
            gc.disable()  # a collection inside a call would be counted as the engine's
            while asked := connection.recv():
                if isinstance(asked, Scenario):
                    connection.send(run(_open(subject, batches, stack, streams=asked.streams), asked))
                elif isinstance(asked, Turn):
                    connection.send(time_turn(opened, asked.calls))
                else:
                    connection.send(time_calls(opened, asked))
            connection.send(Memory(before, memory_mib("VmHWM")))
    except UserError as error:
        connection.send(error)


def main() -> None:
    """Serve the benchmark that started this process."""
    with Connection(int(sys.argv[1])) as connection:
        try:
            work(connection)
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            return  # the benchmark has gone, or Ctrl-C ends both: nobody needs an answer
