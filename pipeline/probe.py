"""The first stage, run always: refuse what cannot work, then write down the machine and all stages' code."""

from __future__ import annotations

from pathlib import Path

from afdcd.files import write_json
from deploy.hardware import describe
from pipeline import checks, cli, fingerprints, paths
from pipeline.cli import arguments
from pipeline.params import load


def main(given: list[str]) -> None:
    """Check params.yaml and this machine, then write hardware.json and the fingerprints."""
    arguments(given)
    params = load()
    checks.check(params)
    fingerprints.write(params, paths.FINGERPRINTS, root=Path(__file__).parents[1])
    write_json(paths.HARDWARE, describe())


if __name__ == "__main__":
    cli.run(main)
