"""Optimiser, poly schedule, and the clip that touches adapters only."""

from __future__ import annotations

from collections.abc import Sequence

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
    """
    settings = [
        {"params": trained, "lr_factor": group.lr_factor}
        for group in groups
        if (trained := [p for p in group.parameters if p.requires_grad])
    ]
    if config.name == "sgd":
        return torch.optim.SGD(
            settings, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        settings, config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=True
    )


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
