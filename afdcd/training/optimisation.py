"""Optimiser, poly schedule, and the clip that touches adapters only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from afdcd.config import OptimiserConfig
from afdcd.losses.method import ParamGroup


def poly_lr(config: OptimiserConfig, iteration: int, iterations: int) -> float:
    """Learning rate of an iteration counted from 0: `lr * (1 - it / max)^power`, after a linear warm-up.

    The first `warmup_iterations` are scaled by (it + 1) / warmup; without warm-up this is the
    schedule of the released Af-DCD code.
    """
    rate: float = config.lr * (1 - iteration / iterations) ** config.poly_power
    warmup = config.warmup_iterations
    return rate * (iteration + 1) / warmup if iteration < warmup else rate


def build_optimiser(config: OptimiserConfig, groups: Sequence[ParamGroup]) -> torch.optim.Optimizer:
    """SGD or AdamW over `groups`; weight decay is on everything, as in the released Af-DCD code.

    `momentum` is SGD's momentum and AdamW's first beta. Parameters without requires_grad are left out.
    Groups with an Adam of their own get one beside it.
    """
    common: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    for group in groups:
        if not (trained := [p for p in group.parameters if p.requires_grad]):
            continue
        if group.adam is None:
            common.append({"params": trained, "lr_factor": group.lr_factor})
        else:
            factor = group.adam.lr / config.lr
            own.append({"params": trained, "lr_factor": factor, "betas": group.adam.betas})
    decay = config.weight_decay
    first: torch.optim.Optimizer
    if config.name == "sgd":
        first = torch.optim.SGD(common, config.lr, momentum=config.momentum, weight_decay=decay, fused=True)
    else:
        betas = (config.momentum, 0.999)
        first = torch.optim.AdamW(common, config.lr, betas=betas, weight_decay=decay, fused=True)
    return _Pair(first, torch.optim.Adam(own, config.lr, fused=True)) if own else first


class _Pair(torch.optim.Optimizer):
    """Two optimisers that step and are saved as one; groups and state are shared with them."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._parts = (first, second)
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update by both."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def set_lr(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_factor"]


def clip_adapters(adapters: Sequence[nn.Parameter], limit: float | None) -> None:
    """Scale the adapters' gradients together to an L2 norm of at most `limit`; the student's are left alone.

    Clipping only the distillation modules is what the released Af-DCD code does.
    """
    if limit is not None and adapters:
        torch.nn.utils.clip_grad_norm_(adapters, limit)
