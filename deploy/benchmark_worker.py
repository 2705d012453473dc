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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from deploy.sessions import open_session

Images = npt.NDArray[np.uint8]


class Subject(NamedTuple):
    """A model to measure: a bundle's folder or an ONNX file of fixed input shapes."""

    name: str
    path: Path
    threads: int


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


def _open_onnx(path: Path, threads: int) -> Callable[[], object]:
    """A call of an ONNX file on random inputs.

    Raises:
        UserError: an input has no fixed shape or an unusual type, or the file is not a model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base below this
        raise UserError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error
    random = np.random.default_rng(0)
    feed: dict[str, npt.NDArray[Any]] = {}
    for given in session.get_inputs():
        if not all(isinstance(size, int) for size in given.shape):
            raise UserError(
                f"{path}: input {given.name!r} has the shape {given.shape}; "
                "a benchmark needs fixed sizes, export the model with them"
            )
        if given.type == "tensor(uint8)":
            feed[given.name] = random.integers(0, 256, given.shape, dtype=np.uint8)
        elif given.type in ("tensor(float)", "tensor(float16)"):
            kind = np.float32 if given.type == "tensor(float)" else np.float16
            feed[given.name] = random.random(given.shape).astype(kind)
        else:
            raise UserError(f"{path}: input {given.name!r} is {given.type}; uint8 and float can be measured")
    return lambda: session.run(None, feed)


def _open_bundle(subject: Subject, batches: Sequence[Images], stack: ExitStack) -> Callable[[], object]:
    """A call of a bundle's engine on the batches in turn, each uint8 (B, H, W, 3)."""
    session = stack.enter_context(open_session(subject.path, threads=subject.threads))
    turns = itertools.cycle(batches)
    return lambda: session.infer(next(turns))


def time_calls(call: Callable[[], object], count: int) -> list[tuple[int, int]]:
    """Wall and process CPU time of each of `count` calls, nanoseconds."""
    times = []
    for _ in range(count):
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - wall, time.process_time_ns() - cpu))
    return times


def work(connection: Connection) -> None:
    """Open the engine that is asked for, then time as many calls as each message says; 0 ends it."""
    subject, batches = connection.recv()
    before = memory_mib("VmRSS")
    try:
        with ExitStack() as stack:
            start = time.perf_counter_ns()
            opened = (
                _open_bundle(subject, batches, stack)
                if subject.path.is_dir()
                else _open_onnx(subject.path, subject.threads)
            )
            opened()
            connection.send(time.perf_counter_ns() - start)
            gc.collect()
            gc.disable()  # a collection inside a call would be counted as the engine's
            while count := connection.recv():
                connection.send(time_calls(opened, count))
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
