"""Several processes as torchrun starts them; one process is the plain case and costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from afdcd.errors import UserError

ROUND = "TORCHELASTIC_ROUND"
"""The variable by which the launcher names each start of the processes."""


@dataclass(frozen=True)
class World:
    """This process among its peers, and the device that it works on.

    Attributes:
        rank: number of this process, from 0.
        size: processes of all nodes.
        device: where it computes.
        local_rank: number of this process on its node.
        apart: whether it writes the files of a node that does not share the first process's disk.
    """

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    apart: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the one process that shows progress, and whose word counts."""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process writes files: one does on every disk."""
        return self.leads or self.apart

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor added up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes in the order of their ranks, (size, ...)."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def minimum(self, tensor: Tensor) -> Tensor:
        """The smallest value over all processes, element by element, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return tensor

    def everyones(self, number: int) -> list[int]:
        """A number of each process, in the order of their ranks."""
        if self.size == 1:
            return [number]
        own = torch.tensor([number], device=self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return [int(part) for part in parts]

    def spread(self, content: bytes, source: int) -> bytes:
        """The bytes that process `source` gave, on all processes."""
        if self.size == 1:
            return content
        length = self.everyones(len(content))[source]
        buffer = torch.empty(length, dtype=torch.uint8)
        if self.rank == source and length:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        buffer = buffer.to(self.device)
        dist.broadcast(buffer, src=source)
        return buffer.cpu().numpy().tobytes()

    def spread_buffers(self, module: nn.Module) -> None:
        """Give every process the buffers (running statistics) of the first, but for those that are equal."""
        if self.size > 1:
            equal = equal_buffers(module)
            for name, buffer in module.named_buffers():
                if name not in equal:
                    dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes.

        Buffers come from the first process at each forward pass, but for those that are equal anyway.
        """
        if self.size == 1:
            return module
        ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(module, equal_buffers(module))  # type: ignore[no-untyped-call]
        return DistributedDataParallel(module, gradient_as_bucket_view=True)


def equal_buffers(module: nn.Module) -> set[str]:
    """Names of buffers that all processes fill alike: those of parts that say `equal_on_all_processes`.

    A memory of hundreds of megabytes need not be sent at each step then.
    """
    return {
        f"{place}.{name}" if place else name
        for place, part in module.named_modules()
        if getattr(part, "equal_on_all_processes", False)
        for name, _ in part.named_buffers(recurse=False)
    }


def pick_device(wish: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """The device of this process.

    Raises:
        UserError: CUDA is asked for and there is none, or there are fewer GPUs than processes.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but torch sees no GPU here; set runtime.device: auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} has no GPU of its own: torch sees {torch.cuda.device_count()}; "
            "lower runtime.processes"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def join(wish: Literal["auto", "cpu", "cuda"]) -> Iterator[World]:
    """Join the processes that torchrun started (its own variables say how many), or be the only one.

    NCCL connects GPUs, gloo connects CPUs. On leaving, the group is dissolved.

    Raises:
        UserError: the wished device is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    device = pick_device(wish, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if size == 1:
        yield World(0, 1, device)
        return
    cuda = device.type == "cuda"
    store, rank, size = next(rendezvous("env://", rank, size))
    store = PrefixStore(os.environ.get(ROUND, "first"), store)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        device_id=device if cuda else None,
    )
    try:
        yield World(rank, size, device, local_rank)
    finally:
        dist.destroy_process_group()
