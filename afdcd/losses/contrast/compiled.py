"""The costly steps of the chunks as kernels that Inductor generates, for a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.contrast.chunked import Kernels, chunked
from afdcd.losses.contrast.rows import Setting


def compiled(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    """The sum over all anchors; see `afdcd.losses.contrast.forms.contrast`.

    The first call of a process compiles, which takes seconds.

    Raises:
        UserError: the kernels cannot be built here.
    """
    return chunked(student, teacher, setting, Kernels(_distances, _gradient))


def _distances(anchors: Tensor, others: Tensor, distance: str) -> Tensor:
    return _run(_l1 if distance == "l1" else _l2, anchors, others)


def _gradient(
    slope: Tensor, anchors: Tensor, others: Tensor, distances: Tensor | None, distance: str
) -> Tensor:
    if distances is None:
        return _run(_l1_gradient, slope, anchors, others)
    return _run(_l2_gradient, slope, anchors, others, distances)


def _run(kernel: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    try:
        result: Tensor = _built(kernel)(*tensors)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise UserError(
            "runtime.contrast: compiled: torch.compile builds no kernels here "
            f"({str(error).partition(chr(10))[0]}); install a C++ compiler, or set runtime.contrast: chunked"
        ) from error
    return result


@cache
def _built(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Sizes stay variables: the last chunk's differ, and each new one would cost seconds.
    return torch.compile(kernel, dynamic=True, fullgraph=True)


def _l1(anchors: Tensor, others: Tensor) -> Tensor:
    return (anchors[:, :, None] - others[:, None]).abs().sum(-1)


def _l1_gradient(slope: Tensor, anchors: Tensor, others: Tensor) -> Tensor:
    slope, anchors, others = slope[..., None], anchors[:, :, None], others[:, None]
    return torch.where(anchors > others, slope, torch.where(anchors < others, -slope, 0.0)).sum(2)


def _l2(anchors: Tensor, others: Tensor) -> Tensor:
    return (anchors[:, :, None] - others[:, None]).square().sum(-1).sqrt()


def _l2_gradient(slope: Tensor, anchors: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    weight = torch.where(distances > 0, slope / distances, 0.0)
    return ((anchors[:, :, None] - others[:, None]) * weight[..., None]).sum(2)
