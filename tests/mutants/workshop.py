"""Copies of the project with a fault in each, and their tests in forked processes that share one torch."""

from __future__ import annotations

import importlib
import multiprocessing as mp
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

from mutants.tables import Fault, Table, planted

SHARED = ("tests", "conf", "pyproject.toml")
"""What tests need beside the code that faults are planted in; missing ones are left out."""
PRELOADED = (
    *("torch", "torch._dynamo", "torch.distributed", "torch.func", "torch.multiprocessing", "torch.testing"),
    *("numpy", "PIL.Image", "pydantic.main", "timm"),
)
"""Imported once, before the first fork: a process would spend most of its time on them."""
SECONDS = 120
"""After which a run counts as endless, unless the sound code takes longer than a tenth of it."""


@dataclass(frozen=True)
class Job:
    """Tests to run on a copy; without a fault, on the sound code."""

    table: Table
    fault: Fault | None
    seconds: float = 10 * SECONDS


@dataclass
class Outcome:
    """What became of a job.

    Attributes:
        verdict: "passed", "failed" or "broken": tests that could not be collected, or a process that died.
        test: the first test that failed.
        reason: the first line of its failure.
        seconds: from start to end.
    """

    verdict: str = "broken"
    test: str = ""
    reason: str = "the process died"
    seconds: float = 0.0


def preload() -> None:
    """Import what all tests need. The code under test must not be among it."""
    for name in PRELOADED:
        importlib.import_module(name)


def snapshot(root: Path, folder: Path, tables: list[Table]) -> None:
    """Copy the code of the tables and all that its tests need."""
    code = {fault.file.split("/")[0] for table in tables for fault in table.faults}
    for name in sorted(code | set(SHARED)):
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)


def run(jobs: list[Job], *, sound: Path, root: Path, processes: int) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs, several at a time; yields them as they end.

    Args:
        jobs: what to run.
        sound: a snapshot of the project, whose siblings the faulty copies become.
        root: the project itself, none of whose code may be run.
        processes: at a time.
    """
    waiting, running = list(reversed(jobs)), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                started = _Started.start(waiting.pop(), sound, root)
                running[started.pipe] = started
            wait(list(running), timeout=0.5)
            for pipe, started in list(running.items()):
                if (outcome := started.outcome()) is not None:
                    del running[pipe]
                    yield started.job, outcome
    finally:
        for started in running.values():
            started.end()


@dataclass
class _Started:
    job: Job
    process: Any
    pipe: Connection
    folder: Path | None
    """To be removed afterwards."""
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, job: Job, sound: Path, root: Path) -> _Started:
        folder = None if job.fault is None else _faulty_copy(job.fault, sound)
        pipe, theirs = mp.Pipe(duplex=False)
        process = mp.get_context("fork").Process(
            target=_tests, args=(folder or sound, root, job.table.tests, theirs)
        )
        process.start()
        theirs.close()
        return cls(job, process, pipe, folder)

    def outcome(self) -> Outcome | None:
        """None while it runs."""
        outcome, seconds = Outcome(), time.monotonic() - self.begun
        if self.pipe.poll():
            try:
                outcome = self.pipe.recv()
            except EOFError:
                pass  # it died without a word
        elif seconds < self.job.seconds:
            return None
        else:
            outcome = Outcome("failed", "", f"no end within {self.job.seconds:.0f} s")
        outcome.seconds = seconds
        self.end()
        return outcome

    def end(self) -> None:
        """Stop the process with all that it started, and remove its copy."""
        if self.process.exitcode is None:  # else the number may be another's by now
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet
                self.process.kill()
        self.process.join()
        self.pipe.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


_count = 0


def _faulty_copy(fault: Fault, sound: Path) -> Path:
    """A copy in hard links, but for the file with the fault; compiled files of the sound code are kept."""
    global _count
    _count += 1
    folder = sound.parent / f"{_count}"
    shutil.copytree(sound, folder, copy_function=os.link, ignore=shutil.ignore_patterns("temporary"))
    file = folder / fault.file
    file.unlink()
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    file.write_text(planted(fault, sound), encoding="utf-8")
    return folder


class _Watcher:
    """Keeps the first failure of a pytest run."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.outcome is None:
            self.outcome = Outcome("failed", report.nodeid.partition("::")[2], _reason(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.outcome is None:
            self.outcome = Outcome("broken", report.nodeid, _reason(report))


def _reason(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    return lines[0] if crash else lines[-1]


def _tests(folder: Path, root: Path, tests: tuple[str, ...], pipe: Connection) -> None:
    """In a process of its own: run tests of a copy, and say what came of it."""
    os.setsid()
    os.chdir(folder)
    own = (str(root), str(root / "tests"), "")
    sys.path[:] = [str(folder), str(folder / "tests"), *(path for path in sys.path if path not in own)]
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    # Plug-ins of other packages cost a second a run.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    watcher = _Watcher()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--rootdir={folder}"]
    (folder / "temporary").mkdir(exist_ok=True)
    options += [f"--basetemp={folder / 'temporary' / str(os.getpid())}"]
    code = pytest.main([*options, *(str(folder / test) for test in tests)], plugins=[watcher])
    outcome = watcher.outcome or Outcome("broken", "", f"pytest ended with {code!r}")
    if code == pytest.ExitCode.OK:
        outcome = Outcome("passed", "", "")
    if strangers := _of_the_tree(root):
        outcome = Outcome("broken", "", f"code of the working tree was run: {strangers[0]}")
    pipe.send(outcome)
    pipe.close()
    os._exit(0)


def _of_the_tree(root: Path) -> list[str]:
    """Imported files of the project that are not of a copy."""
    files = [Path(getattr(module, "__file__", None) or "/") for module in list(sys.modules.values())]
    parts = [file.relative_to(root) for file in files if file.is_relative_to(root)]
    return [str(p) for p in parts if p.parts[0][0] != "." and p.parts[:2] != ("tests", "mutants")]
