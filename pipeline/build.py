"""Stage build: an engine bundle for this machine from a typed graph."""

from __future__ import annotations

from afdcd.files import read_json
from deploy.build import build
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load, named


def main(given: list[str]) -> None:
    """Build the engine of a model for a target.

    Raises:
        UserError: this machine cannot run the target, or the engine does not load or run.
    """
    target, model = arguments(given, "TARGET", "MODEL")
    manifest = build(
        paths.typed(target, model),
        paths.engine(target, model),
        target=target,
        spec=named(load().deploy.specs, target, "target"),
        hardware=read_json(paths.HARDWARE),
    )
    print(
        f"{model} for {target}: {manifest.size() / 1e6:.2f} MB, {manifest.backend} {manifest.precision}"
        f"{manifest.form()}"
    )


if __name__ == "__main__":
    run(main)
