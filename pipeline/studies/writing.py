"""A study's page in results/<name>: tables, the words that intervals carry, CSV and plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from afdcd.files import write_json, write_text
from pipeline.studies import plan, plots, words
from pipeline.studies.outcome import Line, Outcome, control_of
from pipeline.studies.outlook import duration

RESULTS = Path("results")
TITLES = {plan.EQUAL_ITERATIONS: "At equal iterations", plan.EQUAL_TIME: "At equal training time"}


def write(outcome: Outcome, results: Path = RESULTS) -> Path:
    """Write the page and what it rests on; each file in one step. Returns its folder."""
    folder = results / outcome.name
    write_text(folder / "params.yaml", outcome.params_text)
    write_text(folder / "scores.csv", scores_csv(outcome))
    if outcome.costs is not None:
        write_json(folder / "costs.json", outcome.costs)
        write_text(folder / "differences.svg", plots.differences(outcome))
        write_text(folder / "accuracy_over_cost.svg", plots.accuracy_over_cost(outcome))
    write_text(folder / "README.md", page(outcome))
    return folder


def told(outcome: Outcome) -> str:
    """A few lines for the terminal."""
    done, total = outcome.done
    lines = [f"{outcome.name} at commit {outcome.commit[:10]}: {done} of {total} trainings done"]
    if outcome.costs is None:
        lines.append("costs are not measured yet, so the trainings of the second arm are not counted")
    for arm, compared in outcome.arms.items():
        lines += ["", f"{TITLES[arm]}:", *words.plain(compared)]
    return "\n".join(lines)


def scores_csv(outcome: Outcome) -> str:
    """A row a network and arm."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    columns = ("arm", "recipe", "seed", "model", "iterations", "val_miou", f"{outcome.study.split}_miou")
    table.writerow((*columns, "training_seconds", "weights_sha256"))
    for arm, lines in outcome.arms.items():
        for line in lines:
            for seed, each in line.trained.items():
                score = "" if each.score is None else f"{each.score:.4f}"
                row = (arm, line.recipe, seed, each.run.model, line.iterations, f"{each.val:.4f}", score)
                table.writerow((*row, each.seconds, each.weights))
    return buffer.getvalue()


def page(outcome: Outcome) -> str:
    """README.md."""
    done, total = outcome.done
    parts = [f"# {outcome.name}: {outcome.study.about}"]
    if not outcome.finished:
        later = "" if outcome.costs else ", the second arm not counted"
        parts.append(
            f"**Unfinished: {done} of {total} trainings are done{later}. Nothing here is a result yet.**"
        )
    parts += [set_up(outcome), words.reading(outcome.study)]
    for arm, lines in outcome.arms.items():
        parts += [
            f"## {TITLES[arm]}",
            words.arm_note(outcome, arm),
            table(outcome, lines),
            words.verdict(lines),
        ]
    if outcome.costs is not None:
        parts += [
            "![Differences to the student alone](differences.svg)",
            "## What a step costs",
            costs(outcome),
        ]
        parts.append("![mIoU over the cost of a step](accuracy_over_cost.svg)")
    parts.append(
        "Written by `python -m pipeline.study`. Beside it: `params.yaml` (both arms' settings), `scores.csv` "
        "(every network, with the hash of its weights), `costs.json`."
    )
    return "\n\n".join(parts) + "\n"


def set_up(outcome: Outcome) -> str:
    """Data, networks, schedule, machine, commands."""
    study, params = outcome.study, outcome.params
    schedule = params["train"]["schedule"]
    lines = [
        f"- commit `{outcome.commit}`; `python -m pipeline.study {outcome.name}`",
        f"- settings: `python -m pipeline.configure {' '.join(study.configure)}` and what "
        f"`conf/study/{outcome.name}.yaml` adds; all in `params.yaml` here",
    ]
    if outcome.data is not None:
        splits = ", ".join(f"{count} {name}" for name, count in outcome.data["splits"].items())
        lines.append(
            f"- data: {outcome.data['name']}, {len(outcome.data['classes'])} classes; images: {splits}"
        )
    teacher = f", {outcome.teacher:.2f} % mIoU on {study.split}" if outcome.teacher is not None else ""
    lines += [
        f"- teacher: {params['teacher']['schedule']['iterations']} iterations, seed "
        f"{params['teacher']['seed']}{teacher}; one teacher for all. Student: `{outcome.student}`",
        f"- students: {study.iterations} iterations of batch {schedule['batch_size']} in the first arm, "
        f"seeds {', '.join(map(str, study.seeds))}; recipes of one seed share the "
        "student's start and its batches",
        f"- of {study.validations} validations the best on val is kept; scored on {study.split}, PyTorch in "
        "full precision, whole images",
    ]
    if outcome.hardware is not None:
        cpu = outcome.hardware["cpu"]
        gpus = ", ".join(str(gpu.get("name")) for gpu in outcome.hardware.get("gpus", [])) or "no GPU"
        lines.append(
            f"- machine: {cpu['model']}, {cpu['logical_cores']} cores; {gpus}; {study.threads} thread(s) each"
        )
    lines.append(
        f"- spent so far: {duration(outcome.cpu_seconds)} of CPU time, data and teacher "
        "included, the timing of steps not"
    )
    return "\n".join(lines)


def table(outcome: Outcome, lines: list[Line]) -> str:
    """An arm's table."""
    control = control_of(lines)
    ratios = {} if outcome.costs is None else outcome.costs["recipes"]
    rows = []
    for line in lines:
        found = line.interval(control)
        is_control = line is control
        rows.append(
            (
                f"**{line.recipe}**" if is_control else line.recipe,
                str(line.iterations),
                f"{ratios[line.recipe]['cpu_ratio']:.2f}" if line.recipe in ratios else "-",
                words.number(line.mean_val),
                words.number(line.mean),
                words.number(line.deviation),
                "-"
                if is_control
                else " ".join(f"{d:+.2f}" for d in line.differences(control).values()) or "-",
                "-" if is_control or found is None else f"{found.mean:+.2f}",
                "-" if is_control or found is None else f"{found.low:+.2f} to {found.high:+.2f}",
            )
        )
    split = outcome.study.split
    head = (
        "recipe",
        "iterations",
        "cost of a step",
        "val",
        split,
        "sd",
        "difference by seed",
        "mean",
        "95 % interval",
    )
    return markdown(head, rows)


def costs(outcome: Outcome) -> str:
    """The table of costs, with what was measured and how."""
    assert outcome.costs is not None
    found, method = outcome.costs, outcome.study.costs
    lengths = {line.recipe: line.iterations for line in outcome.arms[plan.EQUAL_TIME]}
    rows = []
    for recipe, cost in found["recipes"].items():
        first = outcome.first_phases.get(recipe)
        rows.append(
            (
                recipe,
                f"{1000 * cost['cpu_seconds']:.0f}",
                f"{1000 * cost['cpu_seconds_least']:.0f} to {1000 * cost['cpu_seconds_most']:.0f}",
                f"{cost['cpu_ratio']:.2f}",
                f"{cost['peak_mib_above_control']:+.0f}",
                str(lengths[recipe]),
                "-" if first is None else f"{first:.0f}",
            )
        )
    head = ("recipe", "CPU ms a step", "rounds", "to alone", "peak MiB", "iterations", "first phase, CPU s")
    height, width = found["crop"]
    note = (
        f"Measured before the second arm: batches of {found['batch_size']} images of {height}x{width}, "
        f"{found['threads']} thread(s), loading and augmenting included; the median of {method.rounds} "
        f'rounds of {method.steps} steps, recipes in turn. "Peak" is memory above the control\'s. '
        "Iterations are the second arm's. First phases are beside the arm's time, start of Python included."
    )
    return f"{note}\n\n{markdown(head, rows)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
