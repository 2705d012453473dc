"""One step on made-up images before the long work: what cannot work is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from afdcd.config import Size
from afdcd.data.loader import Batch
from afdcd.errors import UserError
from afdcd.training.task import Share, Task

_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def share_of(batch_size: int, processes: int, micro_batch: int | None) -> tuple[int, int]:
    """Images of one process in one iteration, and in one pass; `batch_size` is global.

    Raises:
        UserError: `batch_size` is not divisible by processes x micro-batch; a fitting value is named.
    """
    unit = processes * (micro_batch or 1)
    if batch_size % unit:
        fitting = max(unit, round(batch_size / unit) * unit)
        parts = f"{processes} process(es)" + (
            f" x train.practice.micro_batch {micro_batch}" if micro_batch else ""
        )
        raise UserError(
            f"schedule.batch_size {batch_size} is not divisible by {parts} = {unit}; "
            f"set it to {fitting}, or change the other numbers"
        )
    images = batch_size // processes
    return images, micro_batch or images


@contextmanager
def memory_errors(images: int, crop: Size) -> Iterator[None]:
    """Turn a lack of memory into a sentence that proposes a micro-batch.

    Raises:
        UserError: a pass over `images` images of `crop` pixels does not fit.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _NO_MEMORY):
            raise
        smaller = max((n for n in range(1, images // 2 + 1) if images % n == 0), default=None)
        remedy = (
            f"set train.practice.micro_batch: {smaller}" if smaller else "choose a smaller crop or network"
        )
        raise UserError(
            f"out of memory with {images} image(s) of {crop[0]}x{crop[1]} in one pass; {remedy}"
        ) from error


def rehearse(task: Task, images: int, crop: Size, device: torch.device) -> None:
    """One forward and backward pass over random images, without a trace in weights and buffers.

    Parameters that no loss reaches are frozen, so that several processes do not wait for their gradients.

    Args:
        task: what will be trained.
        images: images in one pass.
        crop: (height, width) of a training image.
        device: where the task's networks are.

    Raises:
        UserError: out of memory, or whatever networks and losses refuse (one image a pass, a small crop).
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, *crop), generator=generator, dtype=torch.uint8)
    labels = torch.zeros((images, *crop), dtype=torch.uint8, device=device)
    pixels = pixels.to(device, memory_format=torch.channels_last)
    batch = Batch(pixels, labels, torch.arange(images, device=device))
    buffers = [(buffer, buffer.clone()) for buffer in task.learner.buffers()]
    with memory_errors(images, crop):
        loss = task.losses(task.learner, batch, Share(1.0, torch.ones((), device=device)))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
    for parameter in task.learner.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None
    for buffer, before in buffers:
        buffer.copy_(before)
