"""What has been checked already, on disk, so that a stopped `prepare` goes on; torch-free.

A sample is taken from it while its files keep their sizes and times of change. It is kept after a stop and
after faults (only what was mended is checked again), and removed when the data set is prepared.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import __version__ as pillow

from afdcd.data.check import Checked
from afdcd.data.manifest import Row
from afdcd.data.sources import Sample, Source
from afdcd.errors import UserError

COMMIT_SECONDS = 1.0

_TABLES = (
    "CREATE TABLE key (value TEXT)",
    "CREATE TABLE checked (split TEXT, name TEXT, stamp TEXT, row TEXT, counts TEXT, "
    "PRIMARY KEY (split, name)) WITHOUT ROWID",
)


class Journal:
    """The checked samples of one data set, in one file that a killed process leaves whole."""

    def __init__(self, path: Path, key: str) -> None:
        """Open `path`; what it holds of other data or other code, or what is no journal, is thrown away."""
        self.path = path
        self.found = 0
        """Samples that were taken from it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _errors(path):
            self._base = self._opened(key)
        self._saved = time.monotonic()

    def _opened(self, key: str) -> sqlite3.Connection:
        try:
            base = _connect(self.path)
            if base.execute("SELECT value FROM key").fetchall() == [(key,)]:
                return base
            base.close()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
        except sqlite3.DatabaseError:
            pass
        _unlink(self.path)
        base = _connect(self.path)
        for table in _TABLES:
            base.execute(table)
        base.execute("INSERT INTO key VALUES (?)", (key,))
        base.commit()
        return base

    def find(self, sample: Sample, stamp: str | None) -> Checked | None:
        """What was found of a sample whose files have not changed since."""
        query = "SELECT row, counts FROM checked WHERE split = ? AND name = ? AND stamp = ?"
        with _errors(self.path):
            line = self._base.execute(query, (sample.split, sample.name, stamp)).fetchone()
        if line is None:
            return None
        self.found += 1
        counts = {int(raw): pixels for raw, pixels in json.loads(line[1]).items()}
        return Checked(Row.model_validate_json(line[0]), counts)

    def add(self, checked: Checked, stamp: str | None) -> None:
        """Keep what was found of a sample; on disk a second later at most."""
        row = checked.row
        line = (row.split, row.name, stamp, row.model_dump_json(), json.dumps(checked.counts))
        with _errors(self.path):
            self._base.execute("INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?, ?)", line)
            if time.monotonic() - self._saved > COMMIT_SECONDS:
                self._base.commit()
                self._saved = time.monotonic()

    def close(self) -> None:
        """Write what is not on disk yet."""
        with _errors(self.path):
            self._base.commit()
            self._base.close()

    def remove(self) -> None:
        """Delete it: the work is done."""
        self._base.close()
        _unlink(self.path)


def journal_key(source: Source, root: Path, code: str) -> str:
    """What the result of a check depends on beside the files; `code` stands for the program."""
    meaning = (
        *(source.name, source.classes, source.label_map.tolist(), sorted(source.valid_ids)),
        *(source.mask_colours, str(root.resolve()), pillow, code),
    )
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=30)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = NORMAL")
    return base


def _unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a second process into one sentence.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"cannot write {path}: {error}; free some space, or end another prepare that runs here"
        ) from error
