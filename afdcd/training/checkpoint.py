"""A training's state as one safetensors file: tensors and JSON, written in one step, never unpickled."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.files import atomic_file
from afdcd.training.distributed import World

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class Kept(Protocol):
    """What a checkpoint keeps: a module, or anything else that gives and takes named tensors."""

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take over what `state_dict` gave."""
        ...


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
        self.key = key
        self.path = root / f"{name}-{key}"
        self.file = self.path / "last.safetensors"
        self._lock = self.path / "lock"

    @contextmanager
    def owned(self, mark: str = "", *, patience: float = 0.0) -> Iterator[None]:
        """Hold the folder alone; a second trainer of the same run is refused.

        Args:
            mark: left in the lock file, so that others can tell whose lock it is (`marked`).
            patience: seconds to wait for a trainer that is about to end.

        Raises:
            UserError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as handle:
            self._wait_for(handle, patience)
            handle.truncate(0)
            handle.write(mark)
            handle.flush()
            os.fsync(handle.fileno())
            for left in self.path.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield

    def marked(self, mark: str) -> bool:
        """Whether the folder is held, or was held last, under `mark`."""
        try:
            return self._lock.read_text() == mark
        except FileNotFoundError:
            return False

    def _wait_for(self, handle: IO[str], patience: float) -> None:
        """Take the lock; an ending trainer still has its last checkpoint to write."""
        limit, told = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= limit:
                    raise UserError(
                        f"another process is training this very network ({self.path} is locked); "
                        "wait for it or end it, then run the command again"
                    ) from None
                if not told:
                    logger.info("%s is locked by another process: waiting for its end", self.path)
                told = True
                time.sleep(0.1)
            else:
                return

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
        with self._readable():
            return _parsed(self.file.read_bytes())

    def load_newest(self, world: World) -> Checkpoint | None:
        """The newest checkpoint that any process sees, on all of them: the nodes need not share a disk.

        Raises:
            UserError: the file is truncated or is no checkpoint of ours.
        """
        exists = self.file.exists()
        content = self.file.read_bytes() if exists else b""
        with self._readable():
            found = world.everyones(_facts(content)["iteration"] if exists else -1)
        if max(found) < 0:
            return None
        digest = int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
        if len(set(world.everyones(digest))) > 1:
            content = world.spread(content, found.index(max(found)))
        with self._readable():
            return _parsed(content)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint {self.file} cannot be read ({error}); delete the folder {self.path} "
                "and run the command again to start this training anew"
            ) from None

    def remove(self) -> None:
        """Delete the folder: the training's results are written."""
        shutil.rmtree(self.path, ignore_errors=True)


def _parsed(content: bytes) -> Checkpoint:
    """What a checkpoint's file holds."""
    return Checkpoint(safetensors.torch.load(content), _facts(content))


def _facts(content: bytes) -> dict[str, Any]:
    """The JSON facts of a checkpoint's file: safetensors has them in its header, after 8 bytes of length."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts


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


class KeptOptimiser:
    """An optimiser's state under the names of a module's parameters."""

    def __init__(self, optimiser: torch.optim.Optimizer, module: nn.Module) -> None:
        self._optimiser, self._module = optimiser, module

    def state_dict(self) -> Tensors:
        """See `optimiser_tensors`."""
        return optimiser_tensors(self._optimiser, self._module)

    def load_state_dict(self, state_dict: Tensors) -> None:
        """See `load_optimiser`."""
        load_optimiser(self._optimiser, self._module, state_dict)
