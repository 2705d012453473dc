"""torchrun inside the launcher: one sentence for its table of failures, restarts only where they can help."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

from afdcd.errors import UserError
from afdcd.training.distributed import ROUND
from pipeline.parent import LOST_PEER

JOIN_SECONDS = 600
"""How long a node waits for the others, at the start and after one of them died."""


class Group(NamedTuple):
    """Processes to start on this node.

    Attributes:
        processes: on this node.
        nodes: machines.
        rendezvous: "host:port" where they meet; None for a single one.
        restarts: of all processes after one was killed.
        threads: of one process.
    """

    processes: int
    nodes: int
    rendezvous: str | None
    restarts: int
    threads: int


class _Agent(LocalElasticAgent):
    """torchrun's agent, which starts nothing again where a stage refused its settings.

    It gives every start a name of its own: the store in which processes look for each other outlives them,
    and a process must not find the address of a dead one.
    """

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        super()._rendezvous(worker_group)
        # This store is that of one meeting of the nodes.
        store: Any = self._store
        if worker_group.group_rank == 0:
            store.set(ROUND, secrets.token_hex(8))
        os.environ[ROUND] = store.get(ROUND).decode()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED and not worth_restarting(result.failures.values()):
            self._remaining_restarts = 0
        return result


def worth_restarting(failures: Iterable[ProcessFailure]) -> bool:
    """Whether failed processes were killed, or lost one that was: none told what to mend."""
    failures = list(failures)
    killed = any(failure.exitcode < 0 or failure.exitcode == LOST_PEER for failure in failures)
    return killed and not any(map(_told, failures))


def start(group: Group, command: Sequence[str]) -> None:
    """Run `python -m pipeline.worker PID MODULE ARGUMENTS` in every process of the group, to the end.

    Raises:
        UserError: a process failed, or the other nodes did not come.
        SystemExit: a signal ended this process; its children have ended too.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(group.threads))
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="launch-") as logs, _own_agent():
        try:
            run(parse_args(options(group, command, logs)))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            raise UserError(first_sentence(error)) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None
        except (RendezvousClosedError, RendezvousConnectionError, RendezvousTimeoutError) as error:
            raise UserError(
                f"{group.nodes} nodes did not meet at runtime.rendezvous {group.rendezvous} "
                f"({type(error).__name__}: {error or 'no answer'}); start the same stage on all "
                f"of them within {JOIN_SECONDS} s, and let the first one's port through"
            ) from None


def options(group: Group, command: Sequence[str], logs: str) -> list[str]:
    """The command line of torchrun; nodes that start different stages do not meet."""
    if group.nodes == 1:
        meeting = ["--standalone"]
    else:
        meeting = [
            f"--nnodes={group.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={group.rendezvous}",
            f"--rdzv-id={'-'.join(command)}",
            f"--rdzv-conf=join_timeout={JOIN_SECONDS}",
        ]
    return [
        *meeting,
        f"--nproc-per-node={group.processes}",
        f"--max-restarts={group.restarts}",
        f"--log-dir={logs}",
        *("-m", "pipeline.worker", str(os.getpid()), *command),
    ]


def first_sentence(error: ChildFailedError) -> str:
    """What the first failed process said (`pipeline.training` leaves it in torchrun's error file)."""
    failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
    told = [failure for failure in failures if _told(failure)]
    if told:
        return str(told[0].error_file_data["message"]["message"])
    first = failures[0]
    return (
        f"training process {first.local_rank} ended with exit code {first.exitcode}; what it printed is above"
    )


def _told(failure: ProcessFailure) -> bool:
    data: dict[str, Any] = failure.error_file_data
    return isinstance(data.get("message"), dict)


@contextmanager
def _own_agent() -> Iterator[None]:
    """Have torchrun build our agent: it takes it by this name and offers no other way."""
    name = "LocalElasticAgent"
    before = getattr(api, name)
    setattr(api, name, _Agent)
    try:
        yield
    finally:
        setattr(api, name, before)
