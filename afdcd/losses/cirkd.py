"""Cross-image relational distillation (Yang et al., CVPR 2022, arXiv 2204.06986).

How cells resemble the cells of other images: those of the mini-batch, and those that queues of the teacher's
pixels and regions remember by class. The released pixel queue stores cells of any class under each; here a
class's queue holds its own. Released queues begin with random vectors; here an empty place has no share.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.config import Count, Positive
from afdcd.errors import UserError
from afdcd.losses.classes import labels_on_grid
from afdcd.losses.inputs import (
    full_precision,
    require_equal_grids,
    require_equal_shapes,
    unit_vectors,
    wide,
)
from afdcd.losses.method import Context, Method, Target
from afdcd.losses.queue import Bank, ClassQueue, gathered
from afdcd.losses.randomness import uniform
from afdcd.models.output import SegOutput, Stop

_EMPTY = -1e30
"""The logit of a place that holds no vector: no share in any softmax, and no NaN where two meet."""


def mini_batch_pixel(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """KL(teacher || student) of how each cell resembles all cells of an image of the batch (CIRKD 3.2).

    For every ordered pair of images (i, j), i = j too, the cosines of a cell of i and all cells of j pass a
    softmax at the temperature; the divergences are averaged over cells and pairs. Takes B^2 (H W)^2 numbers
    for each network. Near a perfect student the rounding of float32 leaves about 1e-7 / temperature.

    Args:
        student: (B, C_S, H, W).
        teacher: (B, C_T, H, W), detached here; only cosines are compared, so channels may differ.
        temperature: > 0.

    Raises:
        UserError: the maps differ in batch or size, or an option is impossible.
    """
    require_equal_grids(student, teacher, "mini-batch pixels")
    _require_temperature(temperature)
    with full_precision(student):
        ours, theirs = (unit_vectors(wide(x)).flatten(2) for x in (student, teacher.detach()))
        rows = [
            _divergence(anchors.mT @ ours / temperature, known.mT @ theirs / temperature).mean()
            for anchors, known in zip(ours, theirs, strict=True)
        ]
        return torch.stack(rows).mean()


def memory_relation(
    student: Tensor,
    teacher: Tensor,
    bank: Tensor,
    *,
    temperature: float = 0.1,
    filled: Tensor | None = None,
    taken: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) of how each cell resembles remembered vectors (CIRKD 3.3, pixels or regions).

    Zero, with a graph, where no cell is taken or nothing is remembered. Near a perfect student the rounding
    of float32 leaves about 1e-7 / temperature.

    Args:
        student: (B, D, H, W), projected to the teacher's width.
        teacher: (B, D, H, W), detached here.
        bank: (M, D) unit vectors.
        temperature: > 0.
        filled: (M,) bool, False where the bank holds no vector; None where it holds all.
        taken: (B, H, W) bool, False where a cell takes no part; None where all do.

    Raises:
        UserError: the shapes differ, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "memory")
    _require_temperature(temperature)
    with full_precision(student):
        ours, theirs = (_scores(x, bank, temperature) for x in (student, teacher.detach()))
        if filled is not None:
            ours, theirs = (x.masked_fill(~filled, _EMPTY) for x in (ours, theirs))
        divergence = _divergence(ours, theirs)
        share = torch.ones_like(divergence) if taken is None else taken.flatten().to(divergence)
        return (divergence * share).sum() / share.sum().clamp_min(1)


def pixels_of_classes(teacher: Tensor, members: Tensor, keys: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` cells of each class in each image, chosen by the images' keys.

    Args:
        teacher: (B, D, H W).
        members: (B, K, H W) bool, where a cell is of a class.
        keys: (B,) int64.
        count: of each class and image.

    Returns:
        (B, K, n, D), and (B, K, n) False where a class has fewer.
    """
    cells = teacher.shape[2]
    order = uniform(keys, cells)[:, None].where(members, 2.0)
    lowest = order.topk(min(count, cells), 2, largest=False)
    images = torch.arange(len(teacher), device=teacher.device)[:, None, None]
    return teacher.mT[images, lowest.indices], lowest.values < 2


def regions_of_classes(teacher: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each class in each image at unit length.

    Args:
        teacher: (B, D, H W) unit vectors.
        members: (B, K, H W) bool, where a cell is of a class.

    Returns:
        (B, K, 1, D), and (B, K, 1) False where an image has not the class.
    """
    means = unit_vectors(members.to(teacher) @ teacher.mT, dim=2)
    return means[:, :, None], members.any(2)[:, :, None]


class CIRKD(Method):
    """Relations of the head's features with the mini-batch and with a memory of pixels and regions."""

    terms: ClassVar[tuple[str, ...]] = ("mini_batch_pixel", "memory_pixel", "memory_region")
    label_terms: ClassVar[tuple[str, ...]] = ("memory_pixel", "memory_region")
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"

    def __init__(
        self,
        context: Context,
        *,
        temperature: Positive,
        pool: Count,
        pixel_memory: Count,
        region_memory: Count,
        pixels_per_class: Count,
        pixel_contrast: Count,
        region_contrast: Count,
    ) -> None:
        """Build projector and queues; the queues are filled by every forward pass.

        Args:
            context: the run's shapes.
            temperature: of all similarities; 0.1 in the release.
            pool: side of the average pooling before the mini-batch term; 1 pools nothing. Windows at the
                bottom and right are smaller where they do not fit, as in the release.
            pixel_memory: pixels that a class's queue holds; 20000 in the release.
            region_memory: regions that a class's queue holds; 2000 in the release.
            pixels_per_class: of an image and class, put into the queue; 16 in the release.
            pixel_contrast: pixels drawn from all queues together; 4096 in the release.
            region_contrast: regions drawn from all queues together; 1024 in the release.
        """
        super().__init__()
        classes, width = context.student.num_classes, context.teacher.head_features
        self.ignore_index, self.temperature, self.pool = context.ignore_index, temperature, pool
        self.pixels_per_class = pixels_per_class
        self.draws = {
            "memory_pixel": pixel_contrast // classes + 1,
            "memory_region": region_contrast // classes + 1,
        }
        self.projector = nn.Sequential(
            nn.Conv2d(context.student.head_features, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )
        self.queues = nn.ModuleDict(
            {
                "memory_pixel": ClassQueue(classes, pixel_memory, width),
                "memory_region": ClassQueue(classes, region_memory, width),
            }
        )

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms, and projector and queues for the memory's only."""
        super().activate(terms)
        for name in set(self.draws) - terms:
            del self.queues[name]
        if not self.queues:
            del self.projector

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "mini_batch_pixel", "memory_pixel" and "memory_region".

        The memory first takes what the teacher sees in this batch, on all processes, as the release does.

        Raises:
            UserError: the maps differ in size.
        """
        ours, theirs = student.head_features, teacher.head_features
        assert ours is not None and theirs is not None, "run both to the head features"
        require_equal_grids(ours, theirs, "CIRKD")
        values: dict[str, Tensor] = {}
        if "mini_batch_pixel" in self.active:
            values["mini_batch_pixel"] = self._mini_batch(ours, theirs)
        if memories := sorted(self.active & set(self.draws)):
            projected = self.projector(ours)
            near = labels_on_grid(target.labels, (theirs.shape[-2], theirs.shape[-1]))
            banks = self._remember(theirs, near, target.keys, memories)
            for name, bank in banks.items():
                values[name] = memory_relation(
                    projected,
                    theirs,
                    bank.vectors,
                    temperature=self.temperature,
                    filled=bank.filled,
                    taken=near != self.ignore_index,
                )
        return values

    def _mini_batch(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.pool > 1:
            if max(student.shape[-2:]) <= self.pool:
                size = "x".join(map(str, student.shape[-2:]))
                raise UserError(f"CIRKD: pool {self.pool} leaves one cell of a map of {size}; lower pool")
            maps = (wide(x) for x in (student, teacher.detach()))
            student, teacher = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in maps)
        return mini_batch_pixel(student, teacher, temperature=self.temperature)

    @torch.no_grad()
    def _remember(self, teacher: Tensor, near: Tensor, keys: Tensor, memories: list[str]) -> dict[str, Bank]:
        """Fill the queues with what all processes see, in the order of the keys, and draw from them."""
        with full_precision(teacher):
            cells = unit_vectors(wide(teacher)).flatten(2)
            labels = near.flatten(1)[:, None]
            classes = torch.arange(len(self._queue(memories[0]).written), device=near.device)[:, None]
            members = (labels == classes) & (labels != self.ignore_index)
            every = gathered(keys)
            # The order of keys is that of one process with the whole batch, whatever each process holds.
            order = every.argsort()
            banks: dict[str, Bank] = {}
            for name in memories:
                if name == "memory_pixel":
                    found = pixels_of_classes(cells, members, keys, count=self.pixels_per_class)
                else:
                    found = regions_of_classes(cells, members)
                vectors, valid = (gathered(x)[order] for x in (found[0], found[1].byte()))
                self._queue(name).put(vectors, valid.bool())
                banks[name] = self._queue(name).draw(self.draws[name], every[order[:1]])
        return banks

    def _queue(self, name: str) -> ClassQueue:
        queue = self.queues[name]
        assert isinstance(queue, ClassQueue)
        return queue


def _require_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise UserError(f"CIRKD: temperature must be above 0, got {temperature}")


def _scores(features: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """(B, D, H, W) and (M, D) to the cosines over the temperature, (B H W, M)."""
    cells = unit_vectors(wide(features)).flatten(2).mT.flatten(0, 1)
    return cells @ bank.to(cells).mT / temperature


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the last dimension, of each row."""
    rows = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
    return rows.sum(-1)
