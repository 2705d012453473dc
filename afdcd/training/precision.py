"""The number format of forward passes, and which one a machine is fast in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from afdcd.config import PracticeConfig


class Precision(NamedTuple):
    """The device and number format of a forward pass; losses stay in float32 by themselves."""

    device: str
    bf16: bool

    def context(self) -> AbstractContextManager[None]:
        """The autocast that forward passes run under."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)


def multiplies_bf16(device: str) -> bool:
    """Whether "cpu" or "cuda" multiplies bfloat16 in hardware here; emulation is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def settled(practice: PracticeConfig, device: str) -> PracticeConfig:
    """The same settings, "auto" replaced by the precision that it means on a device."""
    fast = "bf16" if multiplies_bf16(device) else "fp32"
    given = {name: getattr(practice, name) for name in ("precision", "teacher_precision")}
    return practice.model_copy(
        update={name: fast if value == "auto" else value for name, value in given.items()}
    )
