"""Targets that another device measures: what its file says, or why nothing can be said of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from afdcd.errors import UserError
from deploy.benchmark import Report
from deploy.bundle import Manifest
from deploy.evaluate import Score
from deploy.gates import Judgement, Verdict
from deploy.kit import read_kit
from deploy.measurement import DeviceMeasurement, read_measurement
from pipeline import paths
from pipeline.params import DeployParams


class Found(NamedTuple):
    """What is known of a target that a device measured."""

    device: str
    engines: dict[str, Manifest]
    scores: dict[str, Score]
    timing: Report


def collect(deploy: DeployParams, root: Path = Path()) -> tuple[dict[str, Found], dict[str, str]]:
    """Measured targets, and the others with the reason and the remedy as the rest of a sentence."""
    found: dict[str, Found] = {}
    missing: dict[str, str] = {}
    for target in deploy.elsewhere:
        try:
            found[target] = _target(deploy, target, root)
        except UserError as error:
            missing[target] = str(error)
    return found, missing


def _target(deploy: DeployParams, target: str, root: Path) -> Found:
    """A target's figures.

    Raises:
        UserError: they are not there, or not of the present kit.
    """
    device = deploy.specs[target].where
    measured = _measurement(device, root)
    outcome = measured.targets.get(target)
    if outcome is None:
        raise UserError(f"{paths.measurement(device)} does not hold it; {_remedy(device)}")
    if outcome.reason is not None or outcome.timing is None:
        raise UserError(
            f"{device} could not measure it: {outcome.reason}; mend that there, or leave the target out"
        )
    return Found(device, outcome.engines, outcome.scores, outcome.timing)


def _measurement(device: str, root: Path) -> DeviceMeasurement:
    path = paths.measurement(device)
    if not (root / path).is_file():
        raise UserError(f"{path} is not there; {_remedy(device)}")
    measured, kit = read_measurement(root / path), read_kit(root / paths.kit(device))
    if measured.kit != kit.key() or measured.device != device:
        raise UserError(
            f"{path} is of another kit than {paths.kit(device)}: networks, images or settings have changed "
            f"since, or it is another device's; {_remedy(device)}"
        )
    return measured


def _remedy(device: str) -> str:
    return (
        f"copy {paths.kit(device)} to {device}, run `python -m deploy measure {device}` there, "
        f"bring its folder {paths.MEASUREMENTS} back, and run dvc repro"
    )


def blocked(missing: dict[str, str], deploy: DeployParams) -> Judgement:
    """A failed gate for each model to release on each target that nobody measured."""
    return Judgement(
        verdicts=[
            Verdict(
                name="measured",
                model=model,
                target=target,
                engine=f"{deploy.specs[target].backend} {deploy.specs[target].precision}",
                value=None,
                limit=None,
                status="fail",
                detail=reason,
            )
            for target, reason in missing.items()
            for model in deploy.release
        ],
        notes=[],
    )
