"""Stage reference: PyTorch's score, class maps and a few logits on the test split, to hold engines to."""

from __future__ import annotations

import os

from deploy.sessions import open_reference
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load
from pipeline.scoring import PREDICTIONS, reference_logits, save, score


def main(given: list[str]) -> None:
    """Score the exported program of a model with PyTorch.

    Raises:
        UserError: the program is missing or altered.
    """
    (model,) = arguments(given, "MODEL")
    wanted = load().runtime.threads
    threads = len(os.sched_getaffinity(0)) if wanted == "auto" else wanted
    with open_reference(paths.exported(model), threads=threads) as session:
        evaluation = score(session, f"{model} in PyTorch", reference=None, gallery=None, engine=None)
        logits = reference_logits(session)
    save(paths.reference(model), evaluation, PREDICTIONS, logits=logits)
    print(f"{model} in PyTorch: mIoU {100 * evaluation.score.miou:.2f} on {evaluation.score.images} images")


if __name__ == "__main__":
    run(main)
