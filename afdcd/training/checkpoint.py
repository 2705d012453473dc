"""A training's state as one safetensors file: tensors and JSON, written in one step, never unpickled."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.files import atomic_file

Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """What goes on after a kill: named tensors, and facts that JSON can hold."""

    tensors: Tensors
    facts: dict[str, Any]


def run_key(parts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of all that a training depends on; `parts` is whatever JSON can hold."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunFolder:
    """Where one training keeps its checkpoint: a folder named after the run and its key."""

    def __init__(self, root: Path, name: str, key: str) -> None:
        self.path = root / f"{name}-{key}"
        self.file = self.path / "last.safetensors"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the folder alone; a second trainer of the same run is refused.

        Raises:
            UserError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training this very network ({self.path} is locked); "
                    "wait for it or end it, then run the command again"
                ) from None
            for left in self.path.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint in place of the previous one, in one step.

        Raises:
            UserError: the disk is full; the previous checkpoint is kept.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        facts = json.dumps(checkpoint.facts)
        with atomic_file(self.file) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, {"facts": facts}))

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None when there is none.

        Raises:
            UserError: the file is truncated or is no checkpoint of ours.
        """
        if not self.file.exists():
            return None
        try:
            with safetensors.safe_open(self.file, framework="pt") as handle:
                facts = json.loads(handle.metadata()["facts"])
                return Checkpoint({name: handle.get_tensor(name) for name in handle.keys()}, facts)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint {self.file} cannot be read ({error}); delete the folder {self.path} "
                "and run the command again to start this training anew"
            ) from None

    def remove(self) -> None:
        """Delete the folder: the training's results are written."""
        shutil.rmtree(self.path, ignore_errors=True)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors under `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors that `prefixed` put under `prefix`, by their own names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _names(optimiser: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """The name of every parameter in the order in which the optimiser numbers them."""
    by_id = {id(parameter): name for name, parameter in module.named_parameters()}
    return [by_id[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]]


def optimiser_tensors(optimiser: torch.optim.Optimizer, module: nn.Module) -> Tensors:
    """The optimiser's state as `parameter name/field` tensors."""
    names = _names(optimiser, module)
    return {
        f"{names[number]}/{field}": value
        for number, fields in optimiser.state_dict()["state"].items()
        for field, value in fields.items()
        if value is not None
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimiser back what `optimiser_tensors` took, laid out in memory as the parameters are."""
    parameters = dict(module.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    numbers = {name: number for number, name in enumerate(_names(optimiser, module))}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        like = parameters[name]
        if value.shape == like.shape and value.dim():
            value = torch.empty_like(like, device="cpu", requires_grad=False).copy_(value)
        state.setdefault(numbers[name], {})[field] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
