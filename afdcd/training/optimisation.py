"""Optimiser, poly schedule, and the clip that touches adapters only."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from afdcd.config import OptimiserConfig
from afdcd.losses.method import ParamGroup
from afdcd.native.kernels import call, has_kernels


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
        self.parts = (first, second)
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update by both."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def set_lr(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_factor"]


def step(optimiser: torch.optim.Optimizer) -> None:
    """One update; on a CPU by a kernel over all parameters of a group at once, where there is one.

    To others channels-last parameters are shown as the plain arrays that they are: on a CPU torch's fused SGD
    copies every channels-last gradient, which takes five times as long as the update.
    """
    if isinstance(optimiser, _Pair):
        for part in optimiser.parts:
            step(part)
    elif tables := _tables(optimiser):
        for group, table in tables:
            settings = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
            call("adam", group["params"][0], table, len(table), *map(float, settings))
    else:
        with _plain_layout(optimiser):
            optimiser.step()


def _tables(optimiser: torch.optim.Optimizer) -> list[tuple[dict[str, Any], Tensor]] | None:
    """Each group with a row a parameter that has a gradient: addresses of what belongs to it, and its size.

    None where the kernel cannot make the update: of the very first one torch lays out the state.
    """
    decayed = any(group["weight_decay"] for group in optimiser.param_groups)
    decoupled = isinstance(optimiser, torch.optim.AdamW)
    if not has_kernels() or not isinstance(optimiser, torch.optim.Adam) or (decayed and not decoupled):
        return None
    tables = []
    for group in optimiser.param_groups:
        kind, numbers = group["params"][0].dtype, array("q")
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimiser.state.get(parameter)
            if not state or not _fits(parameter, kind):
                return None
            slope = _like(parameter.grad, parameter)
            if slope is not parameter.grad:
                parameter.grad = slope
            means = ("exp_avg", "exp_avg_sq")
            for name in means:
                state[name] = _like(state[name], parameter)
            tensors = (parameter, slope, *(state[name] for name in means), state["step"])
            numbers.extend([tensor.data_ptr() for tensor in tensors])
            numbers.append(parameter.numel())
        if numbers:
            # torch.tensor would take each number for an object: a tenth of a millisecond.
            tables.append((group, torch.frombuffer(numbers, dtype=torch.int64).view(-1, 6)))
    return tables


def _fits(parameter: Tensor, kind: torch.dtype) -> bool:
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    return dense and parameter.is_cpu and parameter.dtype == kind and kind in (torch.float32, torch.float64)


@contextmanager
def _plain_layout(optimiser: torch.optim.Optimizer) -> Iterator[None]:
    """Turn channels-last parameters, gradients and state (B, C, H, W) into (B, H, W, C), and back."""
    turned: list[tuple[nn.Parameter, Tensor, Tensor]] = []
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or parameter.is_cuda:
                continue
            data, slope = parameter.data, _like(parameter.grad, parameter)
            if data.is_contiguous():
                parameter.grad = slope
                continue
            turned.append((parameter, data, slope))
            parameter.grad, parameter.data = None, data.movedim(1, -1)
            parameter.grad = slope.movedim(1, -1)
            _turn(optimiser.state[parameter], data.shape, 1, -1)
    try:
        yield
    finally:
        for parameter, data, slope in turned:
            shape = parameter.shape
            parameter.grad, parameter.data = None, data
            parameter.grad = slope
            _turn(optimiser.state[parameter], shape, -1, 1)


def _like(slope: Tensor, parameter: Tensor) -> Tensor:
    """A gradient or state laid out as its parameter: fused optimisers mix up others' places, silently."""
    plain = parameter.is_contiguous() and slope.is_contiguous()
    if plain or slope.stride() == parameter.stride():
        return slope
    return torch.empty_like(parameter).copy_(slope)


def _turn(state: dict[str, Any], shape: torch.Size, source: int, target: int) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape:
            state[name] = value.movedim(source, target)


def clip_adapters(adapters: Sequence[nn.Parameter], limit: float | None) -> None:
    """Scale the adapters' gradients together to an L2 norm of at most `limit`; the student's are left alone.

    Clipping only the distillation modules is what the released Af-DCD code does.
    """
    if limit is not None and adapters:
        torch.nn.utils.clip_grad_norm_(adapters, limit)
