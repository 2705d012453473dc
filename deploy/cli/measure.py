"""`python -m deploy measure`: build, score and time a kit's targets on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy import tables
from deploy.cli import Verbs
from deploy.kit import read_kit
from deploy.measurement import DeviceMeasurement, judged, take


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("measure", "build, score and time the targets of a kit on this machine")
    verb.add_argument("kit", type=Path, metavar="KIT")
    verb.add_argument("--out", type=Path, default=Path("measurements"), help="default: measurements")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the kit and say what the gates make of it.

    Raises:
        UserError: the kit is damaged, or this machine runs none of its targets.
    """
    found = take(options.kit, options.out, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if options.json:
        print(found.model_dump_json(indent=1))
        return
    Console().print(_table(found))
    for target, outcome in found.targets.items():
        if outcome.reason is not None:
            print(f"{target} was not measured: {outcome.reason}")
    judgement = judged(read_kit(options.kit), found)
    for verdict in judgement.failed():
        print(f"gate failed: {verdict.sentence()}")
    for note in judgement.notes:
        print(f"note: {note.model} on {note.target}: {note.detail}")
    print(f"take {options.out}/{found.device}.json and {options.out}/{found.device}/ back to the project")


def _table(found: DeviceMeasurement) -> Table:
    table = Table(title=f"{found.device}: {found.hardware['cpu']['model']}", title_justify="left")
    tables.slim(table)
    for name in ("model", "target"):
        table.add_column(name, overflow="fold")
    for name in ("mIoU\n%", "agree\n%", "p50\nms", "compute\nms", "p99\nms", "ratio", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for target, outcome in found.targets.items():
        if outcome.timing is None:
            continue
        for model, engine in outcome.engines.items():
            score, timing = outcome.scores[model], outcome.timing.models[model]
            shown = (
                100 * score.miou,
                None if score.agreement is None else 100 * score.agreement,
                timing.latency_ms.p50,
                None if timing.compute_ms is None else timing.compute_ms.p50,
                timing.latency_ms.p99,
                timing.speedup,
                engine.size() / 1e6,
            )
            table.add_row(model, target, *("–" if value is None else f"{value:.2f}" for value in shown))
    return table
