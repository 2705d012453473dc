"""Reading named tensors from a file that is trusted with nothing: no unpickled code, no guesses."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from afdcd.errors import UserError

SHOWN = 3
"""How many mismatches a message tells."""

WRAPPERS = ("state_dict", "model")
"""Keys under which published checkpoints hold their state dict."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, on the CPU.

    Raises:
        UserError: the file is missing, truncated, asks to run code, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"weights file {path} is missing; give the path of a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise _damaged(path, error) from error
    if path.suffix in (".pth", ".pt"):
        return _only_tensors(_unpickled(path), path)
    raise UserError(f"weights file {path} must end in .safetensors, .pth or .pt")


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0].rstrip(". ") if str(error) else "unexpected end of file"
    return UserError(f"weights file {path} is truncated or damaged ({reason}); copy it again or make it anew")


def _unpickled(path: Path) -> Any:
    """What torch's restricted unpickler finds; it knows tensors and containers only."""
    try:
        with warnings.catch_warnings():
            # Its remarks on pickle protocols would stand above the sentence that follows.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights file {path} is refused: it is a pickle that asks to run code or no checkpoint at all; "
            "save its state dict (tensors only) as .safetensors and give that"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, OSError) as error:
        raise _damaged(path, error) from error


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}
    raise UserError(f"weights file {path} holds no state dict of tensors; save model.state_dict() there")


def mismatches(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], *, extra: bool) -> list[str]:
    """One phrase for each tensor that is missing, has another shape, or (with `extra`) is not wanted.

    The first ones missing are told beside the most similar name that the file has in excess.
    """
    phrases: list[str] = []
    unwanted = [name for name in found if name not in wanted]
    for name, tensor in wanted.items():
        if name not in found:
            near = difflib.get_close_matches(name, unwanted, n=1) if len(phrases) < SHOWN else []
            phrases.append(f"{name} is missing" + (f" (the file has {near[0]})" if near else ""))
        elif found[name].shape != tensor.shape:
            phrases.append(f"{name} is {list(found[name].shape)}, not {list(tensor.shape)}")
    if extra:
        phrases += [f"{name} is not part of the network" for name in found if name not in wanted]
    return phrases


def shortened(phrases: Iterable[str], limit: int = SHOWN) -> str:
    """The first phrases and the number of others."""
    listed = list(phrases)
    rest = len(listed) - limit
    return "; ".join(listed[:limit]) + (f"; and {rest} more" if rest > 0 else "")
