"""A checkpoint of another project, brought under a Segmenter's names, with the settings that it tells."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afdcd.errors import UserError
from afdcd.models.formats import FORMATS
from afdcd.models.tensors import read_tensors
from afdcd.plugins import require_known


class Foreign(NamedTuple):
    """Tensors under a Segmenter's names, its classes, and those of its settings that the file fixes."""

    tensors: dict[str, Tensor]
    num_classes: int
    settings: dict[str, Any]


def read_foreign(path: Path, form: str) -> Foreign:
    """Read a file without running code of it.

    Args:
        path: a .pth, .pt or .safetensors state dict.
        form: one of `FORMATS` but this project's own.

    Raises:
        UserError: the file is missing, damaged, asks to run code, or is not of that format.
    """
    require_known(FORMATS, form, "checkpoint format")
    module = importlib.import_module(f"afdcd.models.formats.{form}")
    tensors = read_tensors(path)
    try:
        found, settings = module.translate(tensors)
        classes = int(found["classifier.weight"].shape[0])
    except (KeyError, IndexError, ValueError) as error:
        first = ", ".join(list(tensors)[:2])
        raise UserError(
            f"weights file {path} is not of format {form} ({FORMATS[form]}): it lacks {error} and holds "
            f"{first}, ...; name the format that it has (teacher.format)"
        ) from error
    return Foreign(found, classes, settings)
