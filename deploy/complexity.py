"""Parameters and multiply-accumulates of a module, by two counters that check each other."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deploy.config import Config

RULE = (
    "gmacs: 1e9 multiply-accumulates of one image, counted by fvcore on the network as deployed; one "
    "multiply-add is one MAC (half of what others call FLOPs); batch normalisation, attention and bilinear "
    "upsampling are included, ReLU and data movement are free, and the operators in counted_as_zero are "
    "unknown to it. conv_gmacs: convolutions and matrix products only, counted by torch's FlopCounterMode, "
    "halved."
)


class Complexity(Config):
    """The size of a network and the work of one forward pass.

    Attributes:
        parameters: learnable numbers.
        gmacs: 1e9 multiply-accumulates by fvcore's rule, see `RULE`.
        conv_gmacs: 1e9 multiply-accumulates of convolutions and matrix products alone.
        counted_as_zero: operators of the network that fvcore has no count for.
    """

    parameters: int
    gmacs: float
    conv_gmacs: float
    counted_as_zero: tuple[str, ...]


def measure(module: nn.Module, shape: tuple[int, int, int, int]) -> Complexity:
    """Count a module in eval mode on one float input of `shape` (B, 3, H, W); B is 1 for figures per image.

    fvcore traces one real forward pass on the CPU: at 1024 x 2048 that takes as long as inference there.
    """
    gmacs, counted_as_zero = _fvcore(module, shape)
    return Complexity(
        parameters=count_parameters(module),
        gmacs=gmacs,
        conv_gmacs=conv_gmacs(module, shape),
        counted_as_zero=counted_as_zero,
    )


def count_parameters(module: nn.Module) -> int:
    """The learnable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def conv_gmacs(module: nn.Module, shape: tuple[int, int, int, int]) -> float:
    """1e9 multiply-accumulates of convolutions and matrix products, on shapes alone: nothing is computed."""
    shadow = copy.deepcopy(module).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops()) / 2e9


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-accumulates of fused attention, which fvcore does not know: queries by keys, then by values.

    Args:
        inputs: query (..., L, E), key (..., S, E), value (..., S, V) and others, as fvcore hands them over.
        outputs: the result.
    """
    from fvcore.nn.jit_handles import get_shape

    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    count: int = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return count


def _fvcore(module: nn.Module, shape: tuple[int, int, int, int]) -> tuple[float, tuple[str, ...]]:
    """The count of fvcore in 1e9, and the operators that it does not know, without its warnings."""
    with warnings.catch_warnings():
        # It rests on torch.jit, which warns of its own end of life and of every shape it reads.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(copy.deepcopy(module).cpu().eval(), torch.zeros(shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
        total = analysis.total()
    unknown = sorted({name.removeprefix("aten::").rstrip("_") for name in analysis.unsupported_ops()})
    return total / 1e9, tuple(unknown)
