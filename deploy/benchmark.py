"""Latency and throughput of several models, one process each, in turn: ratios come from one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from afdcd.errors import UserError
from deploy import hardware
from deploy.benchmark_worker import Images, Memory, Subject, Times, Turn
from deploy.config import BenchmarkConfig, Config
from deploy.latency import Latency, Steadiness, medians, paired_ratio, steadiness, summarise
from deploy.scenarios import Load, Scenario
from deploy.work import Peak, Work

REWARM = 3
"""Untimed calls before each round at most: while the others ran, the caches went cold."""

ENTRY = "from deploy.benchmark_worker import main; main()"
"""Not `-m`: the module would be there twice, and what it sends could not be unpickled here."""


class Result(Config):
    """What was measured of one model.

    Attributes:
        engine: SHA-256 of the bundle's manifest, so that a release ships what was measured.
        threads: CPU threads of the engine.
        latency_ms: wall clock of a call, end to end: image in host memory to class map in host memory.
        compute_ms: the engine's own run on inputs that lie where it reads them, nothing copied in or out
            (`deploy.sessions.Session.compute_ms`); null where an engine cannot be timed alone.
        cpu_ms: CPU time of all threads of the process in a call; steadier than the wall under load.
        rounds_p50_ms: median wall clock of each round.
        rounds_cpu_p50_ms: the same of CPU time.
        throughput: images a second of one stream of calls, one after the other.
        load_ms: opening the engine and its first call.
        memory_mib: peak resident memory of the process above what it held before opening the engine.
        steadiness: whether the medians of the rounds agree.
        speedup: times faster than the baseline, paired by round; null without one.
        rounds_speedup: that ratio in each round.
    """

    engine: str | None
    threads: int
    latency_ms: Latency
    cpu_ms: Latency
    rounds_p50_ms: list[float]
    rounds_cpu_p50_ms: list[float]
    throughput: float
    load_ms: float
    memory_mib: float | None
    steadiness: Steadiness
    speedup: float | None
    rounds_speedup: list[float] | None
    compute_ms: Latency | None = None

    @property
    def own_ms(self) -> float:
        """The median of the engine's own run, or of the whole call where that is not known."""
        return (self.compute_ms or self.latency_ms).p50


class Report(Config):
    """A benchmark run of a target, its settings and the machine.

    Attributes:
        peak: what the machine's cores do at best in the target's precision; null for other devices.
        work: of each model whose graph can be counted.
    """

    target: str | None
    input_size: tuple[int, int] | None
    inputs: str
    settings: BenchmarkConfig
    baseline: str | None
    load_average_before: float
    load_average_after: float
    hardware: dict[str, Any]
    models: dict[str, Result]
    peak: Peak | None = None
    work: dict[str, Work] = {}


def turns(images: Sequence[Images], batch_size: int) -> list[Images]:
    """As many batches (B, H, W, 3) as images (H, W, 3); each starts at the next one, and goes round."""
    count = len(images)
    return [
        np.stack([images[(first + offset) % count] for offset in range(batch_size)]) for first in range(count)
    ]


class Worker:
    """The parent's end of a `deploy.benchmark_worker` process."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.load_ms = 0.0
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", ENTRY, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.connection = Connection(ours.detach())

    def open(self, batches: Sequence[Images]) -> None:
        """Open the engine and call it once.

        Raises:
            UserError: it cannot be opened.
        """
        self._send((self.subject, list(batches)))
        self.load_ms = self._receive() / 1e6

    def _send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def _receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _died(self) -> UserError:
        code = self.process.wait()
        return UserError(
            f"the process that measures {self.subject.name} ({self.subject.path}) ended with code {code}; "
            "what it printed last stands above"
        )

    def time(self, calls: int) -> list[tuple[int, int]]:
        """Wall and CPU nanoseconds of each of `calls` calls."""
        self._send(calls)
        times: list[tuple[int, int]] = self._receive()
        return times

    def turn(self, calls: int) -> Times:
        """Times of `calls` calls and of the engine's own runs between them."""
        self._send(Turn(calls))
        times: Times = self._receive()
        return times

    def load(self, scenario: Scenario) -> Load:
        """Put a load of several streams on the model."""
        self._send(scenario)
        found: Load = self._receive()
        return found

    def finish(self) -> Memory:
        """End the process; what memory it took."""
        self._send(0)
        memory: Memory = self._receive()
        return memory

    def close(self) -> None:
        """Let go of the process, ended or not."""
        self.connection.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def worker_of(subject: Subject, batches: Sequence[Images]) -> Iterator[Worker]:
    """A process with the model open, ended afterwards.

    Raises:
        UserError: the engine cannot be opened.
    """
    worker = Worker(subject)
    try:
        worker.open(batches)
        yield worker
    finally:
        worker.close()


def _interleave(
    workers: Sequence[Worker], settings: BenchmarkConfig, tick: Callable[[], None]
) -> dict[str, list[Times]]:
    """Times by subject and round; every second round in reverse, so that a drift favours nobody."""
    for worker in workers:
        worker.time(settings.warmup)
    times: dict[str, list[Times]] = {worker.subject.name: [] for worker in workers}
    for index in range(settings.rounds):
        for worker in workers if index % 2 == 0 else reversed(workers):
            worker.time(min(REWARM, settings.warmup))
            times[worker.subject.name].append(worker.turn(settings.iterations))
            tick()
    return times


def summary(
    rounds: Sequence[Sequence[tuple[int, int]]],
    baseline: Sequence[Sequence[tuple[int, int]]] | None,
    settings: BenchmarkConfig,
    *,
    engine: str | None = None,
    threads: int = 1,
    load_ms: float = 0.0,
    memory: Memory = Memory(None, None),  # noqa: B008 - an immutable pair
    runs: Sequence[float] = (),
) -> Result:
    """The figures of one model: its calls, (wall, CPU) nanoseconds by round, and its engine's runs in ms."""
    wall = [[call[0] for call in calls] for calls in rounds]
    cpu = [[call[1] for call in calls] for calls in rounds]
    p50 = medians(wall)
    latency = summarise([call for calls in wall for call in calls])
    base = None if baseline is None else medians([[call[0] for call in calls] for calls in baseline])
    known = memory.before is not None and memory.peak is not None
    return Result(
        engine=engine,
        threads=threads,
        latency_ms=latency,
        cpu_ms=summarise([call for calls in cpu for call in calls]),
        rounds_p50_ms=p50,
        rounds_cpu_p50_ms=medians(cpu),
        throughput=round(settings.batch_size * 1000 / latency.mean, 3),
        load_ms=round(load_ms, 3),
        memory_mib=round(memory.peak - memory.before, 2) if known else None,  # type: ignore[operator]
        steadiness=steadiness(p50, settings.max_cv),
        speedup=None if base is None else paired_ratio(base, p50),
        rounds_speedup=None
        if base is None
        else [round(b / own, 4) for b, own in zip(base, p50, strict=True)],
        compute_ms=summarise([round(1e6 * run) for run in runs]) if runs else None,
    )


def measure(
    subjects: Sequence[Subject],
    batches: Sequence[Images],
    settings: BenchmarkConfig,
    *,
    inputs: str,
    target: str | None = None,
    baseline: str | None = None,
    engines: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Report:
    """Measure all subjects in interleaved rounds.

    Args:
        subjects: bundles (called with `batches` in turn) or ONNX files (called with random inputs).
        batches: uint8 images (B, H, W, 3) at the engines' input size; empty when all are ONNX files.
        settings: calls, rounds and the spread that still counts as stable.
        inputs: what the batches are, in words, for the record.
        target: the target's name, for the record.
        baseline: the subject that speed-ups are counted against.
        engines: subject -> hash of its bundle, for the record.
        tick: called after each model's turn, `rounds` x subjects times.

    Raises:
        UserError: an engine cannot be opened, or its process ends.
    """
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        workers = [stack.enter_context(worker_of(subject, batches)) for subject in subjects]
        times = _interleave(workers, settings, tick)
        calls = {name: [turn.calls for turn in turns] for name, turns in times.items()}
        memory = {worker.subject.name: worker.finish() for worker in workers}
    results = {
        worker.subject.name: summary(
            calls[worker.subject.name],
            None if baseline is None else calls[baseline],
            settings,
            engine=(engines or {}).get(worker.subject.name),
            threads=worker.subject.threads,
            load_ms=worker.load_ms,
            memory=memory[worker.subject.name],
            runs=[run for turn in times[worker.subject.name] for run in turn.runs],
        )
        for worker in workers
    }
    return Report(
        target=target,
        input_size=(int(batches[0].shape[1]), int(batches[0].shape[2])) if batches else None,
        inputs=inputs,
        settings=settings,
        baseline=baseline,
        load_average_before=round(load_before, 2),
        load_average_after=round(os.getloadavg()[0], 2),
        hardware=hardware.describe(),
        models=results,
    )
