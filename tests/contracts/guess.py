"""The masked generator's guess by explicit loops, for the losses that hold it against the teacher's map."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from afdcd.losses.randomness import uniform


def naive_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of odd width with zeros around, one output value after the other."""
    reach, (height, width) = weight.shape[-1] // 2, x.shape[-2:]
    rows = []
    for image in x:
        for y in range(height):
            for z in range(width):
                value = bias
                for dy in range(-reach, reach + 1):
                    for dz in range(-reach, reach + 1):
                        if 0 <= y + dy < height and 0 <= z + dz < width:
                            value = value + weight[:, :, dy + reach, dz + reach] @ image[:, y + dy, z + dz]
                rows.append(value)
    return torch.stack(rows).view(len(x), height, width, -1).permute(0, 3, 1, 2)


def naive_guess(state: Mapping[str, Tensor], features: Tensor, keys: Tensor, mask_ratio: float) -> Tensor:
    """Align, drop the cells whose number is below the ratio, convolve, ReLU, convolve, perhaps widen."""
    if "align.weight" in state:
        features = naive_convolution(features, state["align.weight"], state["align.bias"])
    height, width = features.shape[-2:]
    drawn = uniform(keys, height * width)
    keep = torch.ones(len(features), 1, height, width, dtype=features.dtype)
    for b in range(len(features)):
        for y in range(height):
            for x in range(width):
                if drawn[b, y * width + x] < mask_ratio:
                    keep[b, 0, y, x] = 0
    hidden = naive_convolution(features * keep, state["first.weight"], state["first.bias"])
    guess = naive_convolution(hidden * (hidden > 0), state["second.weight"], state["second.bias"])
    if "expand.weight" in state:
        guess = naive_convolution(guess, state["expand.weight"], state["expand.bias"])
    return guess
