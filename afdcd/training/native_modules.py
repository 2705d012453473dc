"""Modules of a training on a CPU that are quicker in C than in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from afdcd.native.kernels import has_kernels
from afdcd.training.batch_norm import NativeBatchNorm2d, RectifiedReLU, RectifyingBatchNorm2d
from afdcd.training.convolution import NativeConv2d, native_convolutions
from afdcd.training.dropout import NativeDropout
from afdcd.training.rectified import rectified_norms

_NATIVE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: NativeBatchNorm2d,
    nn.Dropout: NativeDropout,
}


@contextmanager
def native_modules(module: nn.Module) -> Iterator[None]:
    """Let batch norms, ReLUs after them at once, dropout and convolutions run in C, where there are kernels.

    They are of another class meanwhile, with the same weights, buffers and names; what is of a subclass
    already, such as timm's norms with an activation, stays as it is.
    """
    classes: dict[nn.Module, type[nn.Module]] = {}
    if has_kernels():
        classes |= {part: _NATIVE[type(part)] for part in module.modules() if type(part) in _NATIVE}
        classes |= dict.fromkeys(native_convolutions(module), NativeConv2d)
        for norm, relu in rectified_norms(module):
            classes |= {norm: RectifyingBatchNorm2d, relu: RectifiedReLU}
    before = {part: type(part) for part in classes}
    try:
        for part, other in classes.items():
            part.__class__ = other
        yield
    finally:
        for part, own in before.items():
            part.__class__ = own
