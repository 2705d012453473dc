"""How every stage starts and how it fails: one sentence, exit 1, no traceback."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from afdcd.errors import UserError
from afdcd.files import disk_errors


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the command line's arguments, then end; a UserError becomes a sentence and exit 1."""
    try:
        with disk_errors(Path.cwd()):
            main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    _leave()


def _leave() -> NoReturn:
    """End as Python does, but without taking its modules apart: with torch that is a second a stage."""
    threading._shutdown()  # type: ignore[attr-defined]  # so do processes of multiprocessing
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def arguments(given: list[str], *names: str) -> list[str]:
    """The positional arguments of a stage.

    Raises:
        UserError: the count differs; the message shows the usage.
    """
    if len(given) != len(names):
        expected = " ".join(names) or "none"
        raise UserError(f"this stage takes {len(names)} argument(s): {expected}; got {given}")
    return given
