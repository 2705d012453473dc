"""Masked generation of the teacher's features from the student's (MGD, arXiv 2205.01529; Af-DCD 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.losses.gathered import gathered
from afdcd.losses.inputs import full_precision
from afdcd.losses.product import differentiable_product
from afdcd.losses.randomness import uniform
from afdcd.losses.winograd import winograd
from afdcd.losses.winograd_native import native_winograd
from afdcd.native.kernels import has_kernels

_GATHERED_SHARE = 0.4
"""On a CPU the first convolution works cell by cell where no more are kept: at a half it may take longer."""
_WINOGRAD_CELLS, _WINOGRAD_CHANNELS = 1024, 512
"""On a CPU, and in float32, the second convolution takes fewer products from there: below, sums cost more."""
_NATIVE_CELLS, _NATIVE_CHANNELS = 512, 128
"""The same where sums are made in C, and in bfloat16 as well."""
_TENSOR_CORE = 8
"""Tensor cores want channels in multiples of it; others are padded by a copy in each call."""


def random_keep_mask(keys: Tensor, features: Tensor, mask_ratio: float) -> Tensor:
    """False in a share `mask_ratio` of the cells, a function of each sample's key and the map's size alone.

    Args:
        keys: (B,) int64.
        features: the map to mask, (B, C, h, w).
        mask_ratio: expected share of dropped cells.

    Returns:
        (B, 1, h, w) bool.
    """
    height, width = features.shape[-2:]
    return (uniform(keys, height * width) >= mask_ratio).view(-1, 1, height, width)


class MaskedGenerator(nn.Module):
    """Guesses the teacher's map from the student's map with most cells dropped.

    Align (1x1 convolution, identity for equal channels), drop, then two 3x3 convolutions with a ReLU
    between; kept cells are not rescaled. The release has no identity and crashes for equal channels.
    The way it is computed depends on device and sizes; all ways are equal but for rounding.

    With a bottleneck it is another, smaller network: all that at the bottleneck's width, and a 1x1
    convolution from there to the teacher's.
    """

    def __init__(self, student_channels: int, teacher_channels: int, bottleneck: int | None = None) -> None:
        super().__init__()
        width = teacher_channels if bottleneck is None else bottleneck
        self.align = None if student_channels == width else nn.Conv2d(student_channels, width, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.expand = None if bottleneck is None else nn.Conv2d(width, teacher_channels, 1)

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """The guess (B, C_T, h, w).

        Args:
            features: the student's map (B, C_S, h, w).
            keep: (B, 1, h, w) bool, False where a cell is dropped.
        """
        if _few_are_kept(features, keep):
            hidden = self._gathered(features, keep)
        elif self.align is None:
            hidden = self.first(features * keep)
        elif self._folds(self.align, keep.numel()):
            hidden = self._folded(self.align, features, keep, _empty_channels(features))
        else:
            hidden = self.first(self.align(features) * keep)
        hidden = F.relu(hidden)
        guess = self._second(hidden)
        if self.expand is not None:
            guess = self.expand(guess)
        return guess

    def _folds(self, align: nn.Conv2d, cells: int) -> bool:
        """Whether the 3x3 costs less at the student's width, the composition of its weights included."""
        student, teacher = align.in_channels, align.out_channels
        apart = cells * (9 * teacher + student) * teacher
        return 9 * teacher * student * (teacher + cells) < apart

    def _folded(self, align: nn.Conv2d, features: Tensor, keep: Tensor, empty: int = 0) -> Tensor:
        """`first(keep * align(features))` at the student's width: a quarter of the work for ResNet-18.

        The mask is one value a cell and align works cell by cell, so align goes into the weights of the
        3x3: first(keep * (A x + a)) = conv(keep * x; W A) + conv(keep; W a) + b. Exact but for rounding.
        `empty` channels of zeros are added.
        """
        weight = self._composed(align, empty).permute(0, 3, 1, 2)
        mask = keep.to(features.dtype)
        parts = [features * mask, mask, mask.new_zeros(()).expand(len(mask), empty, *mask.shape[2:])]
        return F.conv2d(torch.cat(parts, 1), weight, self.first.bias, padding=1)

    def _composed(self, align: nn.Conv2d, empty: int) -> Tensor:
        """(C_T, 3, 3, C_S + 1 + empty): W A, W a, and zeros for channels that are empty; never in half."""
        assert align.bias is not None
        outputs, inner = self.first.weight.shape[:2]
        with full_precision(align.weight):
            table = F.pad(torch.cat([align.weight.flatten(1), align.bias[:, None]], 1), (0, empty))
            taps = self.first.weight.permute(0, 2, 3, 1).reshape(-1, inner)
            return differentiable_product(taps, table.T).view(outputs, 3, 3, -1)

    def _gathered(self, features: Tensor, keep: Tensor) -> Tensor:
        """`first(keep * align(features))` of the kept cells alone."""
        assert self.first.bias is not None
        align, kept = self.align, keep[:, 0]
        rows = features.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, kept.flatten().nonzero().squeeze(1))
        if align is not None and self._folds(align, len(rows)):
            taps = self._composed(align, 0).flatten(1, 2).transpose(0, 1)
        else:
            rows = rows if align is None else F.linear(rows, align.weight.flatten(1), align.bias)
            taps = self.first.weight.permute(2, 3, 0, 1).flatten(0, 1)
        with full_precision(features):
            return gathered(rows.to(_compute_dtype(features)), kept, taps, self.first.bias)

    def _second(self, hidden: Tensor) -> Tensor:
        assert self.second.bias is not None
        if _suits_native(hidden):
            return native_winograd(hidden, self.second.weight, self.second.bias)
        if _suits_winograd(hidden):
            return winograd(hidden, self.second.weight, self.second.bias)
        found: Tensor = self.second(hidden)
        return found


def _compute_dtype(features: Tensor) -> torch.dtype:
    """What a convolution of the map would compute in, autocast considered."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


def _empty_channels(features: Tensor) -> int:
    """How many the map and its mask lack for tensor cores; none but in half types on a GPU."""
    narrow = _compute_dtype(features) in (torch.float16, torch.bfloat16)
    return -(features.shape[1] + 1) % _TENSOR_CORE if features.is_cuda and narrow else 0


def _few_are_kept(features: Tensor, keep: Tensor) -> bool:
    """Never on a GPU, which would have to wait for the answer."""
    return features.device.type == "cpu" and int(keep.sum()) <= _GATHERED_SHARE * keep.numel()


def _suits_native(hidden: Tensor) -> bool:
    """A map on a CPU with kernels, large enough for sums in C."""
    known = hidden.dtype in (torch.float32, torch.float64, torch.bfloat16)
    return _is_large(hidden, _NATIVE_CELLS, _NATIVE_CHANNELS) and known and has_kernels()


def _suits_winograd(hidden: Tensor) -> bool:
    """A large float map on a CPU: torch's operators would round sums in half types."""
    known = hidden.dtype in (torch.float32, torch.float64)
    return _is_large(hidden, _WINOGRAD_CELLS, _WINOGRAD_CHANNELS) and known


def _is_large(hidden: Tensor, cells: int, channels: int) -> bool:
    """Whether a map on a CPU has so many of both; on a GPU cuDNN chooses by itself."""
    has = hidden.numel() // hidden.shape[1]
    return hidden.device.type == "cpu" and hidden.shape[1] >= channels and has >= cells
