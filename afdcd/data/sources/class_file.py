"""A file that says what masks hold: a line a class, with its name and its id or its colour.

Two forms are read: a table with a head (`name,id` or `name,r,g,b`, other columns are left alone), and CVAT's
labelmap.txt (`name:r,g,b:parts:actions`). A name on several lines has several values. The name `-` stands for
what takes no part, and its value `*` for all that is not listed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from afdcd.data.masks import MOST_COLOURS, Colour
from afdcd.errors import UserError

IGNORED = "-"
REST = "*"

HELP = (
    "write a head and a line a class, `name,id` then `road,7`, or `name,r,g,b` then `road,128,64,128`; "
    "the name - is for what takes no part, and `-,*` for all that is not listed"
)

_COLUMNS = {"red": "r", "green": "g", "blue": "b", "label": "name", "class": "name"}
_CHANNELS = ("r", "g", "b")

Line = tuple[int, str, dict[str, str]]
"""Its number, the name, and the cells by their column."""


class ClassFile(NamedTuple):
    """What masks hold.

    Attributes:
        classes: names, in the order of their first lines.
        ids: mask value -> class number, None for what takes no part; by a colour's place for colours.
        colours: the colour of each place; None where masks hold ids.
        palette: a colour a class, where the file gives one for each.
        rest: whether values that are not listed take no part, instead of being faults.
    """

    classes: tuple[str, ...]
    ids: dict[int, int | None]
    colours: tuple[Colour, ...] | None
    palette: tuple[Colour, ...] | None
    rest: bool


def read_class_file(path: Path) -> ClassFile:
    """Read a file of classes.

    Raises:
        UserError: it is missing or cannot be understood; the message names the line and the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing, and dataset.options.classes names it; {HELP}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); {HELP}") from None

    def refused(line: int, why: str) -> UserError:
        return UserError(f"{path}, line {line}: {why}; {HELP}")

    columns, lines = _table(text, refused)
    by_id = "id" in columns
    classes: list[str] = []
    values: dict[int | Colour, int | None] = {}
    shown: dict[int, Colour] = {}
    rest = False
    for number, name, cells in lines:
        if not name:
            raise refused(number, "the name is missing")
        if cells["id" if by_id else "r"] == REST:
            if name != IGNORED:
                raise refused(
                    number, f"* stands for what is not listed and can only be ignored, not {name!r}"
                )
            rest = True
            continue
        colour = _colour(cells, number, refused) if set(_CHANNELS) <= columns else None
        value = _number(cells["id"], number, refused) if by_id else colour
        assert value is not None
        if value in values:
            raise refused(number, f"{_shown(value)} stands on an earlier line")
        if name != IGNORED and name not in classes:
            classes.append(name)
            if colour is not None:
                shown[len(classes) - 1] = colour
        values[value] = None if name == IGNORED else classes.index(name)
    if not 2 <= len(classes) <= MOST_COLOURS:
        raise UserError(f"{path} names {len(classes)} classes; give from 2 to {MOST_COLOURS}. Else: {HELP}")
    if not by_id and len(values) > MOST_COLOURS:
        raise UserError(f"{path} lists {len(values)} colours; {MOST_COLOURS} is the most")
    chosen = tuple(shown[number] for number in range(len(classes)) if number in shown)
    palette = chosen if len(set(chosen)) == len(classes) else None
    colours = None if by_id else tuple(value for value in values if isinstance(value, tuple))
    ids = {
        place if isinstance(value, tuple) else value: number
        for place, (value, number) in enumerate(values.items())
    }
    return ClassFile(tuple(classes), ids, colours, palette, rest)


Refused = Callable[[int, str], UserError]


def _table(text: str, refused: Refused) -> tuple[set[str], Iterator[Line]]:
    """The columns of a file and its lines, of either form."""
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    plain = [(number, line) for number, line in numbered if not line.startswith("#")]
    if not plain:
        raise refused(1, "there is no class")
    if ":" in plain[0][1]:
        return set(_CHANNELS), _cvat(plain, refused)
    first, head = plain[0]
    columns = [_COLUMNS.get(cell, cell) for cell in (cell.lower() for cell in _cells(head))]
    known = set(columns)
    if "name" not in known or not ("id" in known or set(_CHANNELS) <= known):
        raise refused(first, f"the head {head!r} has no name, or neither id nor r, g, b")
    return known, _rows(plain[1:], columns, refused)


def _rows(lines: list[tuple[int, str]], columns: list[str], refused: Refused) -> Iterator[Line]:
    for number, line in lines:
        cells = _cells(line)
        if len(cells) > len(columns):
            raise refused(number, f"{len(cells)} values for {len(columns)} columns")
        named = dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))
        yield number, named["name"], named


def _cvat(lines: list[tuple[int, str]], refused: Refused) -> Iterator[Line]:
    for number, line in lines:
        name, _, after = line.partition(":")
        cells = _cells(after.partition(":")[0])
        if len(cells) != len(_CHANNELS) and cells != [REST]:
            raise refused(number, "after the first colon stand red, green and blue")
        yield number, name.strip(), dict(zip(_CHANNELS, [*cells, "", ""], strict=False))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]))]


def _colour(cells: dict[str, str], line: int, refused: Refused) -> Colour:
    red, green, blue = (_number(cells[channel], line, refused) for channel in _CHANNELS)
    return red, green, blue


def _number(cell: str, line: int, refused: Refused) -> int:
    if not cell.isascii() or not cell.isdigit() or int(cell) > 255:
        raise refused(line, f"{cell!r} is no whole number from 0 to 255")
    return int(cell)


def _shown(value: int | Colour) -> str:
    return f"id {value}" if isinstance(value, int) else f"colour {','.join(map(str, value))}"
