"""Rendered files are kept apart until all are there, so that a stopped `prepare` goes on; torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from afdcd.data.sources import Source
from afdcd.files import disk_errors

_KEY = "key.txt"


def render_below(
    source: Source, folder: Path, progress: Callable[[int], None], *, kept: Path, key: str
) -> None:
    """Render all of `source` below `folder`, going on with what `kept` holds of a stopped run of that key.

    `key` stands for all that the pixels depend on; what `kept` holds of another one is thrown away.

    Raises:
        UserError: the disk is full or not writable; `kept` stays for the next run.
    """
    with disk_errors(kept):
        mark = kept / _KEY
        if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            if kept.exists():
                shutil.rmtree(kept)
            kept.mkdir(parents=True)
            mark.write_text(key, encoding="utf-8")
    source.materialise(kept, progress)
    with disk_errors(folder):
        mark.unlink()
        for entry in sorted(kept.iterdir()):
            shutil.move(entry, folder / entry.name)
        kept.rmdir()
