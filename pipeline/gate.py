"""Stage gate: enforces what `report` judged; a failure leaves the report and the last release as they are."""

from __future__ import annotations

from afdcd.errors import UserError
from afdcd.files import write_json
from deploy.config import Config
from deploy.gates import Judgement
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.results import read_typed


class Verdict(Config):
    """reports/verdict.json: it exists only when no gate failed."""

    passed: bool
    gates: Judgement


def main(given: list[str]) -> None:
    """Write the verdict if every gate is met.

    Raises:
        UserError: a gate failed; all of them are named with value, limit and by how much.
    """
    arguments(given)
    judgement = read_typed(Judgement, paths.GATES)
    _tell(judgement)
    failed = judgement.failed()
    if failed:
        lines = [f"  {gate.sentence()}" for gate in failed]
        raise UserError(
            f"{len(failed)} of {len(judgement.verdicts)} gates failed:\n"
            + "\n".join(lines)
            + f"\nnothing is released, {paths.RELEASE} stays as it was; the limits stand in params.yaml "
            f"under gates, the whole picture in {paths.REPORT}"
        )
    write_json(paths.VERDICT, Verdict(passed=True, gates=judgement).model_dump(mode="json"))


def _tell(judgement: Judgement) -> None:
    """Counts, what could not be judged, and the notes: whether or not a gate failed."""
    states = [gate.status for gate in judgement.verdicts]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    print(", ".join(counts) or "nothing to judge", flush=True)
    for gate in judgement.verdicts:
        if gate.status == "not judged":
            print(f"not judged: {gate.sentence()}")
    for note in judgement.notes:
        print(f"note: {note.model} on {note.target}: {note.detail}")


if __name__ == "__main__":
    run(main)
