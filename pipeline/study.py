"""Compare recipes in a way that can be trusted: `python -m pipeline.study NAME`.

The study conf/study/NAME.yaml runs in .studies/NAME, a clone of the project at the present commit, by DVC's
own lists: every recipe and the student alone, for every seed, at equal iterations and at equal training time.
It may be stopped or killed at any time; the same command goes on. What is known so far lies in results/NAME.
"""

from __future__ import annotations

import argparse
import logging
import sys

from pipeline import cli
from pipeline.studies import definition
from pipeline.studies.conduct import conduct, score_all
from pipeline.studies.outcome import Outcome
from pipeline.studies.running import runner
from pipeline.studies.workspace import Workspace
from pipeline.studies.writing import told, write


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.study", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", help="a study of conf/study")
    parser.add_argument("--jobs", type=_count, default=1, help="trainings at once (default: 1)")
    parser.add_argument(
        "--head", action="store_true", help="start although code has uncommitted changes: without them"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="the studies that are defined")
    what.add_argument("--status", action="store_true", help="how far it is; nothing is run or written")
    what.add_argument(
        "--write", action="store_true", help="score and write what is there; nothing is trained"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def main(given: list[str]) -> None:
    """Run, list, or tell, as the command line says.

    Raises:
        UserError: no such study, uncommitted changes, a failed stage, or a stop that was asked for.
    """
    parser = _parser()
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.list:
        for name in definition.names():
            print(f"{name:12} {definition.load(name).about}")
        return
    if options.name is None:
        parser.error(f"name a study: {', '.join(definition.names())}")
    workspace = Workspace(options.name)
    if options.status or options.write:
        workspace.require()
    if options.status:
        print(told(Outcome.of(workspace)))
        return
    if options.write:
        with runner(workspace, workspace.study.threads) as hands:
            score_all(hands, workspace)
    else:
        made = workspace.open(head=options.head)
        _tell_commit(workspace, made)
        conduct(workspace, options.jobs, lambda: write(Outcome.of(workspace)))
    outcome = Outcome.of(workspace)
    print(f"{told(outcome)}\nthe result is in {write(outcome)}")


def _tell_commit(workspace: Workspace, made: bool) -> None:
    commit = workspace.commit[:10]
    if made:
        print(f"{workspace.folder} runs commit {commit}; edits of the project change nothing there")
    else:
        print(
            f"going on in {workspace.folder} with its own commit {commit}; to start anew, delete that folder"
        )


if __name__ == "__main__":
    cli.run(main)
