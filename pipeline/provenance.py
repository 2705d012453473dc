"""Which commit, settings and data made what is released."""

from __future__ import annotations

import subprocess
from typing import Any

from afdcd.data.manifest import Manifest
from afdcd.files import sha256
from pipeline import paths

WRITTEN_BY_A_RUN = ("dvc.lock", "reports", "fingerprints")
"""Tracked files that every run writes: their change does not make the sources other than the commit's."""


def _git(*arguments: str) -> str | None:
    """What git prints; None without git or outside a repository."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def git_state() -> dict[str, Any] | None:
    """The commit and whether tracked sources differ from it; None where there is no commit."""
    commit = _git("rev-parse", "--verify", "HEAD")
    excluded = [f":(top,exclude){name}" for name in WRITTEN_BY_A_RUN]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *excluded)
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def provenance() -> dict[str, Any]:
    """Commit, hashes of the settings and of the data, and the data's licence.

    No hash of dvc.lock: dvc writes it only after the stage that asks here.

    Raises:
        UserError: the data were not prepared.
    """
    data = Manifest.load(paths.PREPARED)
    return {
        "git": git_state(),
        "params_sha256": sha256(paths.PARAMS),
        "data": {"name": data.info.name, "manifest_sha256": data.sha256, "licence": data.info.licence},
    }
