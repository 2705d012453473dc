"""Random numbers inside networks as a function of (seed, iteration, rank): a resumed run repeats them."""

from __future__ import annotations

import hashlib

import torch


def reseed(seed: int, iteration: int, rank: int) -> None:
    """Set torch's generators (dropout and the like) for one iteration of one process."""
    digest = hashlib.blake2b(f"{seed} {iteration} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
