"""Writing that never leaves half a file: a temporary name first, then a rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afdcd.errors import UserError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one sentence.

    It names `path`, which is being written, or the other file that may not be read.

    Raises:
        UserError: no space, no quota, or no permission.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full while writing {_final(path)}; free some space and run the command again "
                "(what stood there before is kept)"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UserError(_denied(error, path)) from error
        raise


def _denied(error: OSError, path: Path) -> str:
    """Which file was refused: the one being written under its temporary name, or another one."""
    named = path if error.filename is None else Path(os.fsdecode(error.filename))
    if named == path or named in path.parents or any(part.endswith(".tmp") for part in named.parts):
        return f"cannot write {_final(path)}: {error.strerror}; check the folder's permissions"
    return f"no access to {named}: {error.strerror}; check its permissions and those of its folder"


def _final(path: Path) -> Path:
    """A path below a folder of `atomic_folder` as it will be: `.made.7.abc.tmp` is `made`."""
    return Path(*(re.sub(r"\.(.+)\.\d+\.\w+\.tmp", r"\1", part) for part in path.parts))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed.

    Raises:
        UserError: the disk is full or not writable; `path` keeps what it held.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    What a killed process left is cleared away first: if it had already moved `path` aside, it comes back.

    Raises:
        UserError: the disk is full or not writable; `path` keeps what it held.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        prefix = f".{path.name}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
        previous = temporary.with_suffix(".old")
        try:
            yield temporary
            if path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        except BaseException:
            if previous.exists() and not path.exists():
                os.replace(previous, path)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(previous, ignore_errors=True)


def recover(path: Path) -> None:
    """Bring `path` back if a killed `atomic_folder` had moved it aside, and remove what such ones left."""
    if not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.\w+\.(tmp|old)")
    for left in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(left.name)
        if match is None or _alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            os.replace(left, path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """`value` as indented JSON with sorted keys; NaN and infinity are refused."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_text` gives it."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run the stage that makes it (dvc repro)") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run dvc repro") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
