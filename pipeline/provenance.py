"""Which commit, settings and data made what is released."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from afdcd.data.manifest import Manifest
from afdcd.files import sha256
from pipeline import paths

LOCK = Path("dvc.lock")
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


def revisions(wanted: Iterable[Path]) -> dict[str, str] | None:
    """DVC's hashes of the wanted outputs, by path: what `dvc fetch` brings back; None where dvc ran nothing.

    dvc notes a stage's outputs in dvc.lock when the stage ends, so those of earlier stages are there.
    """
    try:
        stages = yaml.load(LOCK.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return None
    outputs = [output for stage in stages.values() for output in stage.get("outs", [])]
    paths_ = {path.as_posix() for path in wanted}
    return {
        output["path"]: f"{output.get('hash', 'md5')}:{output['md5']}"
        for output in outputs
        if output["path"] in paths_ and "md5" in output
    }


def provenance(outputs: Iterable[Path]) -> dict[str, Any]:
    """Commit, hashes of the settings and of the data, DVC's of the outputs, and the data's licence.

    No hash of dvc.lock itself: dvc writes it again after the stage that asks here.

    Raises:
        UserError: the data were not prepared.
    """
    data = Manifest.load(paths.PREPARED)
    return {
        "git": git_state(),
        "dvc": revisions(outputs),
        "params_sha256": sha256(paths.PARAMS),
        "data": {"name": data.info.name, "manifest_sha256": data.sha256, "licence": data.info.licence},
    }
