"""torch.compile of single networks: names of weights stay, and what fails is said in a sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from afdcd.errors import UserError

logger = logging.getLogger(__name__)

_COMPILERS = ("torch._dynamo", "torch._inductor")


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Let each network's forward pass be compiled when it first runs; the modules stay what they are."""
    logger.info("compiling the networks: the first step takes a minute or more")
    for network in networks:
        network.compile(dynamic=False)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn a failure of the compiler into a sentence.

    Raises:
        UserError: the networks cannot be compiled on this machine.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(_COMPILERS):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the networks cannot be compiled here ({reason}); torch.compile needs a C++ compiler (g++), "
            "install one or set train.practice.compile: false"
        ) from error


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run networks as they are written: images of other sizes would each be compiled anew."""
    with torch.compiler.set_stance("force_eager"):
        yield
