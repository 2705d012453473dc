"""Score trained networks on a split: `python -m pipeline.studies.scores SPLIT MODEL...`, in a study's clone.

In full precision at the geometry that ships. Scores are kept by the weights' hash: a network is scored once.
"""

from __future__ import annotations

from pathlib import Path

from afdcd.errors import UserError
from afdcd.files import sha256, write_json
from pipeline import cli, params, paths

SCORES = Path("study/scores")


def place(folder: Path, split: str, weights: str) -> Path:
    """Where the score of weights of that hash lies in a clone at `folder`."""
    return folder / SCORES / split / f"{weights}.json"


def weights_of(folder: Path, model: str) -> Path:
    """The weights of a trained network in a clone at `folder`."""
    return folder / paths.trained(model) / "weights.safetensors"


def main(given: list[str]) -> None:
    """Score those MODELs on SPLIT that have no score yet; torch is imported only if there are any."""
    if len(given) < 2:
        raise UserError(f"usage: python -m pipeline.studies.scores SPLIT MODEL...; got {' '.join(given)}")
    split, *models = given
    missing = {
        model: hashed
        for model in models
        if not place(Path(), split, hashed := sha256(weights_of(Path(), model))).exists()
    }
    if missing:
        _score(split, missing)


def _score(split: str, models: dict[str, str]) -> None:
    from afdcd.data.manifest import Manifest
    from afdcd.models.store import load_trained
    from afdcd.training.precision import Precision
    from afdcd.training.validation import Validation
    from pipeline.training import session

    settings = params.load()
    with session(settings.runtime) as world:
        validation = Validation(
            Manifest.load(paths.PREPARED),
            split,
            size=settings.deploy.export.input_size,
            mode=settings.deploy.export.fit,
            batch_size=settings.train.schedule.batch_size,
            precision=Precision(world.device.type, False),
            world=world,
        )
        for model, hashed in models.items():
            network, _ = load_trained(paths.trained(model))
            miou = validation(network.to(world.device))
            write_json(place(Path(), split, hashed), {"model": model, "split": split, "miou": miou})


if __name__ == "__main__":
    cli.run(main)
