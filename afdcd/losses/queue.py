"""Queues of vectors by class: fixed-size buffers that all processes fill alike, kept in the checkpoint."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from afdcd.losses.randomness import uniform


class Bank(NamedTuple):
    """Vectors drawn from a queue: (M, D), and (M,) False where a class had fewer than were asked for."""

    vectors: Tensor
    filled: Tensor


class ClassQueue(nn.Module):
    """The newest `size` vectors of each class.

    Attributes:
        vectors: (K, size + 1, D) float32: a ring for each class, then a place of zeros that takes whatever
            is no vector, so that nothing has to be counted on the host.
        written: (K,) int64, how many have ever been put into it.
    """

    equal_on_all_processes: ClassVar[bool] = True
    """As all put in what all have gathered, in one order; so that nobody has to send them around."""

    vectors: Tensor
    written: Tensor

    def __init__(self, num_classes: int, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("vectors", torch.zeros(num_classes, size + 1, width))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def put(self, vectors: Tensor, valid: Tensor) -> None:
        """Add vectors, oldest first; buffers change in place and the device is not waited for.

        Args:
            vectors: (B, K, n, D).
            valid: (B, K, n) bool; the others are no vectors at all.
        """
        rows = vectors.transpose(0, 1).flatten(1, 2).to(self.vectors)
        wanted = valid.transpose(0, 1).flatten(1)
        rank, count = wanted.cumsum(1) - 1, wanted.sum(1)
        # Of more than the ring holds only the last stay: no place is then written twice.
        wanted = wanted & (rank >= (count - self.size)[:, None])
        places = ((self.written[:, None] + rank) % self.size).where(wanted, self.size)
        self.vectors.scatter_(1, places[..., None].expand_as(rows), rows * wanted[..., None])
        self.written += count

    @torch.no_grad()
    def draw(self, count: int, key: Tensor) -> Bank:
        """`count` vectors of each class without repetition, a function of `key` and what the queue holds.

        Full queues are drawn from at the same places.

        Args:
            count: of each class; all where a queue is not longer.
            key: (1,) int64.
        """
        classes, _, width = self.vectors.shape
        held = torch.arange(self.size, device=key.device) < self.written[:, None]
        # Numbers of ~key, since those of key choose what is put in.
        order = uniform(~key, self.size).expand(classes, -1).where(held, 2.0)
        lowest = order.topk(min(count, self.size), 1, largest=False)
        chosen = self.vectors.gather(1, lowest.indices[..., None].expand(-1, -1, width))
        return Bank(chosen.flatten(0, 1), (lowest.values < 2).flatten())


def gathered(tensor: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; the tensor itself where there is one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
