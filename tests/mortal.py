"""Stages in processes that kill themselves: one Python imports torch once and forks each of them.

`Stages(folder)` starts it. `run(died_at, module, *arguments)` runs a stage in a child that sends itself
SIGKILL where so many functions, of Python or of C, were entered or left since its `main`. So a seed gives the
same moments again, those within the writing of a file among them.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

TESTS = Path(__file__).parent


class End(NamedTuple):
    """How a stage ended: by its own kill or with an exit code; its calls if it lived, else where it died."""

    killed: bool
    code: int
    calls: int
    place: str


class Stages:
    """The Python that forks, in `folder`; a context."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(self, died_at: int | None, module: str, *arguments: str) -> End:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        print(died_at or 0, module, *arguments, file=stdin, flush=True)
        assert select.select([stdout], [], [], 120)[0], "waited in vain"
        killed, code, calls, place = stdout.readline().split(" ", 3)
        return End(killed == "1", int(code), int(calls), place.strip())

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def child(died_at: int, module: str, arguments: list[str], tell: int) -> None:
    """Be the stage, to the end of this process."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == died_at:
            names = []
            while frame.f_back is not None and len(names) < 30:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            os.write(tell, f"{calls} {'<'.join(names)}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    main = import_module(module).main
    sys.setprofile(count)
    main(arguments)
    sys.setprofile(None)
    os.write(tell, f"{calls} end".encode())


def serve() -> None:
    """Run each stage that standard input names, and tell how it ended."""
    for stage in ("pipeline.distill", "pipeline.train_student"):
        import_module(stage)
    for line in sys.stdin:
        died_at, module, *arguments = line.split()
        told, tell = os.pipe()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                child(int(died_at), module, arguments, tell)
                code = 0
            finally:
                os._exit(code)
        os.close(tell)
        status = os.waitpid(pid, 0)[1]
        with os.fdopen(told) as place:
            words = place.read() or "0 unknown"
        print(int(os.WIFSIGNALED(status)), os.waitstatus_to_exitcode(status), words, flush=True)


if __name__ == "__main__":
    serve()
