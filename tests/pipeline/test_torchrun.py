from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.parent import LOST_PEER
from pipeline.torchrun import Group, first_sentence, options, worth_restarting


def failure(exitcode: int, told: str | None = None, timestamp: int = 0) -> Any:
    message = {"message": {"message": told}} if told else {"message": "<NONE>"}
    return SimpleNamespace(exitcode=exitcode, error_file_data=message, timestamp=timestamp, local_rank=0)


@pytest.mark.parametrize(
    ("failures", "worth"),
    [
        ([failure(-9), failure(LOST_PEER)], True),
        ([failure(LOST_PEER)], True),
        ([failure(1, "lower the batch"), failure(LOST_PEER)], False),
        ([failure(1, "lower the batch")], False),
        ([failure(1)], False),
    ],
)
def test_only_what_was_killed_starts_again(failures: list[Any], worth: bool) -> None:
    assert worth_restarting(failures) == worth


def test_the_first_told_sentence_is_shown() -> None:
    failures = {0: failure(1, None, 1), 1: failure(1, "second", 3), 2: failure(1, "first", 2)}
    assert first_sentence(SimpleNamespace(failures=failures)) == "first"  # type: ignore[arg-type]
    assert "exit code -9" in first_sentence(SimpleNamespace(failures={0: failure(-9)}))  # type: ignore[arg-type]


def test_nodes_meet_by_stage() -> None:
    group = Group(processes=4, nodes=2, rendezvous="node1:29400", restarts=3, threads=1)
    found = options(group, ["pipeline.distill", "r18", "kd", "0"], "logs")
    assert {"--nnodes=2", "--rdzv-endpoint=node1:29400", "--rdzv-id=pipeline.distill-r18-kd-0"} <= set(found)
    assert {"--nproc-per-node=4", "--max-restarts=3"} <= set(found) and "--standalone" not in found
    assert found[-4:] == ["pipeline.distill", "r18", "kd", "0"]
    assert options(group._replace(nodes=1, rendezvous=None), ["m"], "logs")[0] == "--standalone"
