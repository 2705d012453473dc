"""Runs commands of a study in its workspace, several at once, each with its log and its time on record."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from afdcd.errors import UserError
from afdcd.files import write_json
from pipeline.studies import watcher
from pipeline.studies.workspace import Workspace

logger = logging.getLogger(__name__)

BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
"""What DVC says when another of its processes holds what it needs for a moment."""
RETRIES = 20
PAUSE = 1.0
"""Seconds before the next try."""


class Task(NamedTuple):
    """A command of a study.

    Attributes:
        name: of its log and its record.
        command: run in the workspace.
    """

    name: str
    command: Sequence[str]


def stage(name: str) -> Task:
    """One DVC stage, without the stages before it.

    A DVC that waits for the lock is what makes several at once safe: after a training it needs the
    lock again, and giving up then would lose what was trained.
    """
    return Task(name, ("dvc", "--wait-for-lock", "repro", "--single-item", name))


class _Child(NamedTuple):
    """A running task; Python would reap a process that nobody holds, and its resource usage with it."""

    task: Task
    process: subprocess.Popen[bytes]
    began: float


ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a study to stop."""


class Runner:
    """Runs tasks in a workspace; nothing that it started outlives it."""

    def __init__(self, workspace: Workspace, threads: int, lifeline: subprocess.Popen[bytes]) -> None:
        self._workspace = workspace
        self._threads = threads
        self._lifeline = lifeline
        self._running: dict[int, _Child] = {}

    def run(self, tasks: Sequence[Task], jobs: int, ended: Callable[[Task, float], None]) -> list[str]:
        """Run all, `jobs` at once; returns the names of those that failed, the others are run all the same.

        Args:
            tasks: in the order in which they start.
            jobs: how many at once.
            ended: told each task that succeeded, with its wall seconds.
        """
        waiting, failed = deque(tasks), []
        attempts: dict[str, int] = {}
        while waiting or self._running:
            while waiting and len(self._running) < jobs:
                self._start(waiting.popleft())
            task, status, wall = self._next_end()
            if status == 0:
                ended(task, wall)
            elif BUSY.search(self._log(task)) and attempts.get(task.name, 0) < RETRIES:
                attempts[task.name] = attempts.get(task.name, 0) + 1
                time.sleep(PAUSE)
                waiting.appendleft(task)
            else:
                failed.append(task.name)
                logger.error("%s failed: %s", task.name, last_words(self._log(task)))
        return failed

    def stop(self) -> None:
        """End what runs, as Ctrl-C on a terminal would: trainings save their state first."""
        groups = [group for group in self._running if watcher.signalled(group, signal.SIGINT)]
        limit = time.monotonic() + watcher.PATIENCE
        while self._running:
            if time.monotonic() > limit:
                watcher.kill(self._running)
            self._reap()
            time.sleep(0.05)
        watcher.outlive(groups, limit)

    def _start(self, task: Task) -> None:
        log = self._log_path(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        # A wish to stop between the start and the entry would leave a child that nobody waits for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        try:
            with log.open("w") as handle:
                process = subprocess.Popen(
                    task.command,
                    cwd=self._workspace.folder,
                    env=self._workspace.environment(self._threads),
                    stdin=subprocess.DEVNULL,
                    stdout=handle,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self._in_child,
                )
            self._running[process.pid] = _Child(task, process, time.monotonic())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _next_end(self) -> tuple[Task, int, float]:
        """Wait for any of the running to end; its exit status and wall seconds, which are put on record."""
        while (ended := self._reap()) is None:
            time.sleep(0.05)
        return ended

    def _reap(self) -> tuple[Task, int, float] | None:
        """The same if one has ended already."""
        for pid, (task, process, began) in self._running.items():
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                del self._running[pid]
                self._tell(f"-{pid}")
                process.returncode = code = os.waitstatus_to_exitcode(status)
                wall = time.monotonic() - began
                self._record(task, code, wall, used.ru_utime + used.ru_stime)
                return task, code, wall
        return None

    def _record(self, task: Task, status: int, wall: float, cpu: float) -> None:
        """Add an attempt's time to the task's record; children that the command waited for are in it."""
        path = self._workspace.records / "stages" / f"{task.name}.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(
            path,
            {
                "cpu_seconds": round(before.get("cpu_seconds", 0.0) + cpu, 2),
                "wall_seconds": round(before.get("wall_seconds", 0.0) + wall, 2),
                "attempts": before.get("attempts", 0) + 1,
                "exit": status,
            },
        )

    def _log_path(self, task: Task) -> Path:
        return self._workspace.records / "logs" / f"{task.name}.log"

    def _log(self, task: Task) -> str:
        return self._log_path(task).read_text(encoding="utf-8", errors="replace")

    def _in_child(self) -> None:
        """Between fork and exec: the watcher knows of the group before there is anything to end."""
        # A study in the background of a script has SIGINT ignored, and its children would have too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        self._tell(f"+{os.getpid()}")

    def _tell(self, line: str) -> None:
        assert self._lifeline.stdin is not None
        os.write(self._lifeline.stdin.fileno(), f"{line}\n".encode())


def last_words(log: str) -> str:
    """The sentence that tells why a command failed: the stage's own rather than DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("error:")]
    return (own or lines or ["it printed nothing"])[-1]


@contextmanager
def runner(workspace: Workspace, threads: int) -> Iterator[Runner]:
    """A runner; SIGTERM, SIGHUP and Ctrl-C end what it runs, and its watcher does if this process is killed.

    Raises:
        UserError: it was asked to stop; what was done is kept.
    """
    lifeline = subprocess.Popen(
        # Isolated: its own folder must not come before the standard library's modules.
        [sys.executable, "-I", watcher.__file__],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    made = Runner(workspace, threads, lifeline)
    # What the caller has ignored stays so: nohup, and shells' background commands.
    numbers = [number for number in ASKED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield made
    except KeyboardInterrupt:
        logger.info("stopping; trainings save their state")
        raise UserError("stopped as asked; the same command goes on where this one stood") from None
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        made.stop()
        assert lifeline.stdin is not None
        lifeline.stdin.close()
        lifeline.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
