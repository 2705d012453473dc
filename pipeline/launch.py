"""Start a training stage in one process or, through torchrun, in several.

Usage: `python -m pipeline.launch MODULE ARGUMENTS`.

How many is `runtime.processes` in params.yaml, which no stage tracks: the number of GPUs changes speed and
re-runs nothing. Several machines are torchrun's affair: start the stage with torchrun by hand on each
(`torchrun --nnodes=2 ... -m pipeline.distill STUDENT RECIPE SEED`), in a folder that all of them share.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from afdcd.config import RuntimeConfig
from afdcd.errors import UserError
from pipeline import cli
from pipeline.params import load

GPUS = Path("/proc/driver/nvidia/gpus")
PR_SET_PDEATHSIG = 1


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


def end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies: a killed dvc leaves no trainer behind.

    The request outlives exec. Elsewhere than on Linux nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(143)


def main(given: list[str]) -> None:
    """Run the module named first with the other arguments.

    Raises:
        UserError: no such module, or a process failed with a sentence of its own.
    """
    if not given or not _exists(given[0]):
        raise UserError(
            f"usage: python -m pipeline.launch MODULE ARGUMENTS; got {' '.join(given) or 'nothing'}"
        )
    runtime = load().runtime
    processes = count_processes(runtime, count_gpus(os.environ))
    end_with_parent()
    if processes > 1:
        _torchrun(processes, count_threads(runtime, processes), given)
    else:
        os.execv(sys.executable, [sys.executable, "-m", *given])


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _torchrun(processes: int, threads: int, command: list[str]) -> None:
    """What `torchrun --standalone` does, with one sentence in place of its table of failures."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="launch-") as logs:
        options = ["--standalone", f"--nproc-per-node={processes}", f"--log-dir={logs}", "-m", *command]
        try:
            run(parse_args(options))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            raise UserError(_first_sentence(error)) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None


def _first_sentence(error: object) -> str:
    """What the first failed process said (`pipeline.training` leaves it in torchrun's error file)."""
    failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)  # type: ignore[attr-defined]
    told = [failure for failure in failures if isinstance(failure.error_file_data.get("message"), dict)]
    if told:
        return str(told[0].error_file_data["message"]["message"])
    first = failures[0]
    return (
        f"training process {first.local_rank} ended with exit code {first.exitcode}; what it printed is above"
    )


if __name__ == "__main__":
    cli.run(main)
