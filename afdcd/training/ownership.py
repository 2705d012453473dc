"""Who writes a run's files: one process on every disk, and nobody else at the same time."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace

from afdcd.errors import UserError
from afdcd.training.checkpoint import RunFolder
from afdcd.training.distributed import World

PATIENCE = 20.0
"""Seconds to wait for a trainer whose dvc or launcher was killed: it still saves its state."""


def own(folder: RunFolder, world: World, stack: ExitStack) -> World:
    """Hold the run's folder on every disk that the nodes use, until the stack closes; collective.

    Returns:
        The world, in which the first process of a node with a disk of its own writes too.

    Raises:
        UserError: another process trains this network, or the nodes do not train the same one.
    """
    keys = world.everyones(int(folder.key, 16) >> 8)
    if len(set(keys)) > 1:
        odd = next(rank for rank, key in enumerate(keys) if key != keys[0])
        raise UserError(
            f"process {odd} does not train what process 0 does: params, code, data or results of earlier "
            "stages differ between their nodes; bring all to the same commit, params.yaml and dvc.lock"
        )
    mark = world.spread(secrets.token_hex(8).encode() if world.leads else b"", 0).decode()
    if world.leads:
        stack.enter_context(folder.owned(mark, patience=PATIENCE))
    world.barrier()
    # A first process that does not see the mark is on a node with a disk of its own.
    apart = not world.leads and world.local_rank == 0 and not folder.marked(mark)
    if apart:
        stack.enter_context(folder.owned(mark, patience=PATIENCE))
    return replace(world, apart=apart)
