"""Pydantic's errors as sentences: the key, the value, and what would be valid."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from afdcd.plugins import nearest

Location = tuple[int | str, ...]


def dotted(location: Location) -> str:
    """`("train", "seeds", 0)` as `train.seeds[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def sentences(model: type[BaseModel], values: Any, error: ValidationError, at: Location = ()) -> list[str]:
    """One sentence a mistake, unknown keys first; keys are named from the root, `at` being the model's place.

    A missing key that an unknown one was surely meant to be is not told twice.
    """
    found = list(_grouped(values, error))
    unknown = {where for where, kind, _ in found if kind == "extra_forbidden"}
    meant = {(*where[:-1], _meant(model, where)) for where in unknown}
    lines = []
    for where, kind, messages in sorted(found, key=lambda item: item[1] != "extra_forbidden"):
        key = dotted(at + where)
        if kind == "extra_forbidden":
            hint = nearest(str(where[-1]), fields(model, where[:-1]))
            lines.append(f"{key}: unknown key {where[-1]!r}; {hint}")
        elif kind != "missing":
            lines.append(f"{key}: {_value(values, where)!r} is not possible; it {' or '.join(messages)}")
        elif where not in meant:
            lines.append(
                f"{key}: missing; give it a value, or write the file by python -m pipeline.configure"
            )
    return lines


def fields(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the keys that are valid at `location` below `model`; empty where any key is."""
    current: Any = model
    for part in location:
        current = _step(current, part)
    found = _model(current)
    return list(found.model_fields) if found else []


def _meant(model: type[BaseModel], where: Location) -> str | None:
    """The valid key that an unknown one was probably meant to be."""
    hint = nearest(str(where[-1]), fields(model, where[:-1]))
    return hint.split("'")[1] if hint.startswith("did you mean") else None


def _grouped(values: Any, error: ValidationError) -> Iterator[tuple[Location, str, list[str]]]:
    """(place, kind, messages): a union's alternatives are errors of one place."""
    places: dict[tuple[Location, str], list[str]] = {}
    for item in error.errors(include_url=False):
        kind = item["type"]
        where = item["loc"] if kind in ("missing", "extra_forbidden") else _existing(values, item["loc"])
        message = _plain(item["msg"])
        told = places.setdefault((where, kind if kind in ("missing", "extra_forbidden") else "value"), [])
        if message not in told:
            told.append(message)
    for (where, kind), messages in places.items():
        yield where, kind, [text[0].lower() + text[1:] for text in messages]


def _plain(message: str) -> str:
    """Pydantic's words without its own names and habits."""
    message = message.partition(", unable to parse")[0].partition(", got a number")[0]
    message = re.sub("a valid dictionary( or instance of .*)?", "a group of keys", message)
    message = re.sub(r"^\w+ should have (.*) after validation, not \d+", r"must have \1", message)
    return message.replace("Input should be", "must be").replace("Value error, ", "")


def _existing(values: Any, location: Location) -> Location:
    """The part of pydantic's location that exists in the file; the rest names union members."""
    kept: list[int | str] = []
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        kept.append(part)
    return tuple(kept)


def _value(values: Any, location: Location) -> Any:
    for part in location:
        values = values[part]
    return values


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, also as one member of a union."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for member in get_args(annotation) if (found := _model(member))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _step(annotation: Any, part: int | str) -> Any:
    """The annotation of one key or index below `annotation`."""
    model = _model(annotation)
    if model is not None:
        field = model.model_fields.get(str(part))
        return field.annotation if field else None
    bare = _bare(annotation)
    members = get_args(bare)
    if get_origin(bare) is dict:
        return members[1]
    return members[0] if get_origin(bare) in (list, tuple) and members else None
