"""What TensorRT says while it works: kept, made readable, and refused where a warning means other numbers."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any

from afdcd.errors import UserError
from deploy.tensorrt.bindings import Bindings

KEPT = 200
"""Messages of a listener; a server runs for months."""

CHANGED_MEANING = (
    (
        re.compile(r"UINT8 zero_point", re.IGNORECASE),
        "it reads unsigned quantised values as signed ones; quantise with symmetric INT8 activations",
    ),
    (
        re.compile(r"clamp(ed|ing)|cast(ing)? down to|out of range", re.IGNORECASE),
        "it narrows weights that do not fit; keep the graph's constants in the range of float32 and int32",
    ),
    (
        re.compile(r"subnormal|affected by converting|truncat", re.IGNORECASE),
        "it loses precision of weights; type the graph in the precision that is meant",
    ),
)
"""Warnings after which the engine computes something else than the graph says, and what to do."""

_PLACES = re.compile(r"\s*\bIn \w+ at /_src/[^()\s]+|^\s*\w+\.(?:cpp|hpp|h):\d+:\s*|^Assertion failed:\s*")


def listen(bindings: Bindings) -> Any:
    """A logger for builders, parsers and runtimes; `.messages` holds (severity, text) from WARNING up."""
    api = bindings.api
    heard = ("INTERNAL_ERROR", "ERROR", "WARNING")

    class Listener(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.messages: deque[tuple[str, str]] = deque(maxlen=KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in heard:
                self.messages.append((severity.name, msg))

    return Listener()


def warnings(listener: Any) -> list[str]:
    """The warnings so far, each once, in one line each."""
    texts = (clean(text) for severity, text in listener.messages if severity == "WARNING")
    return list(dict.fromkeys(texts))


def last_error(listener: Any) -> str:
    """What went wrong last, in one line; the driver's absence where nothing needs one is left out."""
    errors = [text for severity, text in listener.messages if severity != "WARNING"]
    return clean(errors[-1]) if errors else "it gives no reason"


def require_same_meaning(said: Iterable[str], bindings: Bindings, name: str) -> None:
    """Refuse warnings that mean an engine which computes something else.

    Raises:
        UserError: with the reason, the remedy and the warning.
    """
    for text in said:
        for pattern, reason in CHANGED_MEANING:
            if pattern.search(text):
                raise UserError(
                    f"{bindings} would build another network than {name} holds: {reason} ({text})"
                )


def clean(text: str) -> str:
    """A message without places in NVIDIA's sources, on one line."""
    lines = [_PLACES.sub("", line).strip() for line in text.splitlines()]
    kept = [line for line in lines if line and "catchCudaError" not in line]
    return " ".join(kept) or text.strip()
