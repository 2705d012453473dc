"""What a network does otherwise while it is exported, with the same results: pooling over bins, dropout.

Adaptive average pooling over more than one bin becomes hundreds of gathers in ONNX, which are silently wrong
at other sizes than the traced one. Dropout does nothing in inference, and exporters may leave a node of it.
Batch normalisation after a convolution needs nothing here: the ONNX exporter folds it, and `graph.check`
holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)


def bin_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """(size, bins): column i averages the cells floor(i size / bins) .. ceil((i + 1) size / bins) - 1.

    Without a division of integers, for which engines have no common form.
    """
    cell = torch.arange(size, device=like.device)[:, None] * bins
    edge = torch.arange(bins, device=like.device) * size
    inside = ((cell + bins > edge) & (cell < edge + size)).to(like.dtype)
    return inside / inside.sum(dim=0)


def adaptive_average(x: Tensor, bins: int | None | Iterable[int | None]) -> Tensor:
    """`F.adaptive_avg_pool2d` as matrix products, exact at every size; over one bin it is a mean.

    Args:
        x: (B, C, h, w), or (C, h, w).
        bins: cells along height and width of the result; None keeps that side.

    Returns:
        (B, C, bins, bins), or without B.
    """
    height, width = (bins, bins) if bins is None or isinstance(bins, int) else bins
    if height == width == 1:
        return x.mean((-2, -1), keepdim=True)
    if width is not None:
        x = x @ bin_matrix(x.shape[-1], width, x)
    if height is not None:
        x = (x.transpose(-1, -2) @ bin_matrix(x.shape[-2], height, x)).transpose(-1, -2)
    return x


class Exportable(TorchFunctionMode):
    """While this is entered, torch's own functions take the forms above."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or what stands for it in an exported graph."""
        given = dict(kwargs or {})
        if func is F.adaptive_avg_pool2d:
            return _adaptive_average(*args, **given)
        if func in _DROPOUTS and not _training(*args, **given):
            return args[0] if args else given["input"]
        return func(*args, **given)


def _adaptive_average(input: Tensor, output_size: Any) -> Tensor:
    return adaptive_average(input, output_size)


def _training(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    return training
