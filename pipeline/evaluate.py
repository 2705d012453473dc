"""Stage evaluate: the score of an engine on the test split, and its agreement with PyTorch."""

from __future__ import annotations

from afdcd.files import sha256
from deploy.bundle import MANIFEST, read_manifest
from deploy.maps import load_maps
from deploy.sessions import open_session
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.scoring import GALLERY, LOGITS, PREDICTIONS, logit_error, save, score

PICTURES = 4
"""Class maps kept for the report's gallery."""


def main(given: list[str]) -> None:
    """Score the engine of a model for a target.

    Raises:
        UserError: the bundle is missing or altered, or PyTorch's predictions are of other samples.
    """
    target, model = arguments(given, "TARGET", "MODEL")
    bundle = paths.engine(target, model)
    reference = load_maps(paths.reference(model) / PREDICTIONS)
    with open_session(bundle, threads=read_manifest(bundle).threads) as session:
        evaluation = score(
            session,
            f"{model} on {target}",
            reference=reference,
            gallery=PICTURES,
            engine=sha256(bundle / MANIFEST),
        )
        error = logit_error(session, load_maps(paths.reference(model) / LOGITS))
    result = evaluation.score.model_copy(update={"max_relative_error": error})
    save(paths.evaluation(target, model), evaluation._replace(score=result), GALLERY)
    print(
        f"{model} on {target}: mIoU {100 * result.miou:.2f}, agreement with PyTorch {result.agreement:.5f}, "
        f"largest relative error of a logit {error:.1e}"
    )


if __name__ == "__main__":
    run(main)
