"""Batch normalisation folded into the convolutions before it, in a network that is trained no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEAR = 1e-3
"""Relative norm up to which outputs are the same but for rounding; a wrong fold is off by far more."""

_Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def fold_batch_norms(network: nn.Module, run: Callable[[], Iterable[Tensor]]) -> int:
    """Fold every `nn.BatchNorm2d` whose input is the output of an `nn.Conv2d` into that convolution.

    Which norm follows which convolution is seen in a forward pass. Where the network's outputs change by
    more than rounding, because something else uses a convolution's output too, everything is as before.

    Args:
        network: in eval mode; changed in place, each folded norm becomes an identity.
        run: a forward pass in float32 or wider without gradients; gives its outputs.

    Returns:
        How many norms are folded.
    """
    expected = [output.clone() for output in run()]
    pairs = _pairs(network, run)
    undo = [_fold(network, *pair) for pair in pairs]
    if all(_same(found, wanted) for found, wanted in zip(run(), expected, strict=True)):
        return len(pairs)
    for restore in undo:
        restore()
    return 0


def _pairs(network: nn.Module, run: Callable[[], Iterable[Tensor]]) -> list[_Pair]:
    """Convolutions and norms that a forward pass uses once, one right after the other."""
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    found: list[_Pair] = []
    used: list[nn.Module] = []

    def convolved(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        used.append(module)
        # The tensor is kept: its identity would be given to another one otherwise.
        made[id(output)] = module, output, output._version

    def normalised(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        used.append(module)
        convolution, output, version = made.get(id(given[0]), (None, None, None))
        if convolution is not None and output is given[0] and version == given[0]._version:
            found.append((convolution, module))

    hooks = [
        *(part.register_forward_hook(convolved) for part in network.modules() if type(part) is nn.Conv2d),
        *(part.register_forward_pre_hook(normalised) for part in network.modules() if _has_statistics(part)),
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in found if all(used.count(part) == 1 for part in pair)]


def _has_statistics(part: nn.Module) -> bool:
    return type(part) is nn.BatchNorm2d and part.affine and part.running_var is not None


def _fold(network: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[], None]:
    """Fold one norm; what is returned undoes it."""
    assert norm.running_mean is not None and norm.running_var is not None
    places = [
        (module, name)
        for module in network.modules()
        for name, part in module.named_children()
        if part is norm
    ]
    weight, bias = convolution.weight, convolution.bias
    with torch.no_grad():
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        before = 0.0 if bias is None else bias.double()
        shift = norm.bias.double() + (before - norm.running_mean.double()) * factor
        scaled = (weight.double() * factor.view(-1, 1, 1, 1)).to(weight.dtype)
    convolution.weight = nn.Parameter(scaled, requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    for module, name in places:
        setattr(module, name, nn.Identity())

    def restore() -> None:
        convolution.weight, convolution.bias = weight, bias
        for module, name in places:
            setattr(module, name, norm)

    return restore


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _NEAR * expected.norm())
