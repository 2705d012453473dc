"""Gates, metrics, plots and the page of a run: `python -m pipeline.report`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

from afdcd.files import atomic_folder, write_json, write_text
from pipeline import cli, paths
from pipeline.params import load
from pipeline.reporting import view
from pipeline.results import Results, collect


def render(content: dict[str, Any]) -> str:
    """The page as one HTML file that needs nothing from outside."""
    template = resources.files("pipeline.reporting").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(content)


def tables(results: Results) -> dict[str, list[Sequence[object]]]:
    """The data behind the figures: file name -> rows, the first one the header."""
    curves: list[Sequence[object]] = [("model", "iteration", "loss", "val_miou")]
    for model, rows in results.curves.items():
        curves += [(model, row["iteration"], row["loss"], row.get("val_miou")) for row in rows]
    pareto: list[Sequence[object]] = [("model", "target", "p50_ms", "miou")]
    classes: list[Sequence[object]] = [("model", "target", "class", "iou")]
    for (model, target), score in results.scores.items():
        timing = results.benchmarks[target].models[model]
        pareto.append((model, target, timing.latency_ms.p50, score.miou))
        classes += [(model, target, name, score.iou[name]) for name in score.classes]
    return {"curves.csv": curves, "pareto.csv": pareto, "classes.csv": classes}


def _csv(rows: list[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main(given: list[str]) -> None:
    """Write reports/gates.json, metrics.json, plots and report.html."""
    cli.arguments(given)
    results = collect(load())
    judgement = results.judgement()
    content = view.page(results, judgement)
    page = render(content)
    with atomic_folder(paths.PLOTS) as folder:
        for name in ("pareto", "curves", "class_bars"):
            write_text(folder / f"{name}.svg", content[name] + "\n")
        for name, rows in tables(results).items():
            write_text(folder / name, _csv(rows))
    write_json(paths.METRICS, results.metrics())
    write_json(paths.GATES, judgement.model_dump(mode="json"))
    write_text(paths.REPORT, page)


if __name__ == "__main__":
    cli.run(main)
