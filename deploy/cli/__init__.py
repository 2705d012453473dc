"""The verbs of `python -m deploy`, one a file: `add` describes its arguments and names what runs them."""

from __future__ import annotations

import argparse
from typing import Protocol


class Verbs(Protocol):
    """Gives a verb's parser, which already knows --json."""

    def __call__(self, name: str, does: str) -> argparse.ArgumentParser:
        """The parser of the verb `name`; `does` says what it is for."""
        ...
