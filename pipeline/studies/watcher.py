"""Ends what a study started when the study is gone: stages of a killed study must not train on, unseen.

Started by `running` as a plain script, with its standard input as the lifeline: lines `+GROUP` and `-GROUP`
name process groups that begin and end; the end of the input means that the study died, however it died.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE = 60.0
"""Seconds that a training gets to save its state."""


def watch(lines: Iterable[str]) -> set[int]:
    """The groups that were running when `lines` ended."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def signalled(group: int, number: int) -> bool:
    """Send a signal to a process group; says whether there was any process in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def end(groups: Iterable[int], patience: float = PATIENCE) -> None:
    """Interrupt the groups, as Ctrl-C on a terminal would; kill what does not end in time."""
    asked = [group for group in groups if signalled(group, signal.SIGINT)]
    outlive(asked, time.monotonic() + patience)


def outlive(groups: Iterable[int], limit: float) -> None:
    """Wait until the groups are empty; kill what is left at `limit` of the monotonic clock."""
    left = [group for group in groups if signalled(group, 0)]
    while left and time.monotonic() < limit:
        time.sleep(0.1)
        left = [group for group in left if signalled(group, 0)]
    kill(left)


def kill(groups: Iterable[int]) -> None:
    """End the groups without asking."""
    for group in groups:
        signalled(group, signal.SIGKILL)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    end(watch(sys.stdin))
