"""A trained 3x3 convolution in float32 on a CPU: torch's, tap by tap in C, and Winograd's in C.

python benchmarks/convolutions.py

CPU milliseconds on one thread, forward and backward, medians of turns in one process; and the form that
trainings take where products in C are chosen (`afdcd/training/convolution.py`). Eight images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from method_time import machine
from torch import Tensor, nn

from afdcd.losses.winograd_native import native_winograd
from afdcd.training import convolution
from afdcd.training.direct import direct_convolution
from afdcd.training.memory import keep_freed_memory

WARM_UP, TURNS = 3, 20
IMAGES = 8
CASES = [
    *((48, 96, channels, outputs, 1) for channels, outputs in ((8, 8), (8, 16), (32, 32), (64, 64))),
    *((12, 24, 16, 16, 1), (12, 24, 32, 32, 2), (12, 24, 32, 64, 2), (12, 24, 64, 64, 4)),
    *((12, 24, 64, 32, 3), (12, 24, 64, 32, 9), (12, 24, 128, 128, 2), (12, 24, 128, 128, 9)),
]
"""Height, width, channels, outputs, dilation."""


def chosen(layer: nn.Conv2d, features: Tensor) -> str:
    """The form that a training takes, by what is called."""
    layer.__class__ = convolution.NativeConv2d
    forms = {"Winograd": "native_winograd", "tap by tap": "direct_convolution"}
    for form, name in forms.items():
        with mock.patch.object(convolution, name, side_effect=InterruptedError):
            try:
                layer(features)
            except InterruptedError:
                return form
    return "torch"


def medians(layer: nn.Conv2d, features: Tensor, dilation: int) -> list[float]:
    """Milliseconds of each form."""
    slopes, nothing = torch.randn_like(layer(features)), torch.zeros(layer.out_channels)
    forms: list[Callable[[], Tensor]] = [
        lambda: layer(features),
        lambda: direct_convolution(features, layer.weight, dilation),
        lambda: native_winograd(features, layer.weight, nothing, dilation),
    ]
    taken: list[list[float]] = [[] for _ in forms]
    for _ in range(WARM_UP + TURNS):
        for form, times in zip(forms, taken, strict=True):
            start = time.process_time()
            form().backward(slopes)
            times.append(1e3 * (time.process_time() - start))
    return [statistics.median(times[WARM_UP:]) for times in taken]


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    print(f"{machine()}\n\n| map | channels | dilation | torch | tap by tap | Winograd | taken |")
    print("|---" * 7 + "|")
    for height, width, channels, outputs, dilation in CASES:
        torch.manual_seed(0)
        layer = nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        layer.to(memory_format=torch.channels_last)
        features = torch.randn(IMAGES, channels, height, width).contiguous(memory_format=torch.channels_last)
        found = [f"{each:.2f}" for each in medians(layer, features.requires_grad_(), dilation)]
        row = [
            f"{height}x{width}",
            f"{channels} -> {outputs}",
            str(dilation),
            *found,
            chosen(layer, features),
        ]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
