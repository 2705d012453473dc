from __future__ import annotations

import torch

from afdcd.training.randomness import reseed


def draw(seed: int, iteration: int, rank: int) -> float:
    reseed(seed, iteration, rank)
    return torch.rand(()).item()


def test_a_function_of_all_three() -> None:
    assert draw(1, 2, 0) == draw(1, 2, 0)
    assert len({draw(seed, it, rank) for seed in range(3) for it in range(3) for rank in range(3)}) == 27
