from __future__ import annotations

import torch
from torch import Tensor

from afdcd.losses.queue import ClassQueue, gathered


def naive_put(rings: list[list[Tensor]], size: int, vectors: Tensor, valid: Tensor) -> None:
    for b in range(len(vectors)):
        for k, ring in enumerate(rings):
            ring += [vectors[b, k, i] for i in range(vectors.shape[2]) if valid[b, k, i]]
            del ring[:-size]


def held(queue: ClassQueue, k: int) -> list[Tensor]:
    """Vectors of a class from the oldest to the newest."""
    size, written = queue.size, int(queue.written[k])
    return [queue.vectors[k, i % size] for i in range(max(0, written - size), written)]


def test_holds_the_newest_of_each_class_in_their_order() -> None:
    draw = torch.Generator().manual_seed(0)
    for size in (1, 3, 7):
        queue, rings = ClassQueue(4, size, 2), [[] for _ in range(4)]
        storage = queue.vectors.data_ptr()
        for _ in range(6):
            vectors = torch.randn(2, 4, 3, 2, generator=draw)
            valid = torch.rand(2, 4, 3, generator=draw) < 0.5
            valid[:, 3] = False
            queue.put(vectors, valid)
            naive_put(rings, size, vectors, valid)
            for k in range(4):
                found = held(queue, k)
                assert len(found) == len(rings[k])
                assert all(a.equal(b) for a, b in zip(found, rings[k], strict=True))
        assert queue.vectors.data_ptr() == storage and int(queue.written[3]) == 0
        assert not queue.vectors[:, size].any()


def test_draws_only_what_is_held_without_repetition_and_by_key() -> None:
    queue = ClassQueue(3, 8, 1)
    numbers = torch.arange(24.0).view(1, 3, 8, 1) + 1
    valid = torch.ones(1, 3, 8, dtype=torch.bool)
    valid[:, 1, 2:] = valid[:, 2] = False
    queue.put(numbers, valid)
    bank = queue.draw(5, torch.tensor([3]))
    vectors, filled = bank.vectors.view(3, 5), bank.filled.view(3, 5)
    assert filled.sum(1).tolist() == [5, 2, 0]
    assert len(set(vectors[0].tolist())) == 5 and set(vectors[0].tolist()) <= set(range(1, 9))
    assert set(vectors[1][filled[1]].tolist()) == {9, 10}
    assert queue.draw(5, torch.tensor([3])).vectors.equal(bank.vectors)
    assert not queue.draw(5, torch.tensor([4])).vectors.equal(bank.vectors)
    assert queue.draw(50, torch.tensor([3])).vectors.shape == (24, 1)


def test_full_queues_are_drawn_from_at_the_same_places() -> None:
    queue = ClassQueue(2, 6, 1)
    queue.put(torch.arange(12.0).view(1, 2, 6, 1), torch.ones(1, 2, 6, dtype=torch.bool))
    vectors = queue.draw(4, torch.tensor([9])).vectors.view(2, 4)
    assert (vectors[1] - vectors[0]).tolist() == [6] * 4


def test_every_place_is_drawn_about_as_often() -> None:
    queue = ClassQueue(1, 10, 1)
    queue.put(torch.arange(10.0).view(1, 1, 10, 1), torch.ones(1, 1, 10, dtype=torch.bool))
    drawn = torch.cat([queue.draw(3, torch.tensor([key])).vectors.flatten() for key in range(1000)])
    counts = drawn.histc(10, 0, 10)
    assert 240 < counts.min() and counts.max() < 360  # mean 300, sd 14.5


def test_one_process_gathers_itself() -> None:
    rows = torch.ones(2, 3)
    assert gathered(rows) is rows
