"""Random numbers inside networks as a function of (seed, iteration, rank): a resumed run repeats them."""

from __future__ import annotations

import hashlib

import torch


def reseed(seed: int, iteration: int, rank: int) -> None:
    """Set torch's generators (dropout and the like) for one iteration of one process."""
    digest = hashlib.blake2b(f"{seed} {iteration} {rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    # torch.manual_seed formats the call stack for a GPU that no one uses: half a millisecond a step.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)
