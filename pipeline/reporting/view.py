"""From the results of a run to what the page shows; every sentence follows from a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.gates import Judgement, Verdict
from pipeline.reporting import figures, gallery
from pipeline.reporting.style import recipe_colours
from pipeline.reporting.words import NOTHING, count, label, percent, points
from pipeline.reporting.words import figures as short
from pipeline.results import TEACHER, Network, Results

VERDICT_STYLES = {"pass": "pass", "fail": "fail", "not judged": "judge", "not gated": "none"}
PICTURE_WIDTH = 320


class View:
    """The page's content, part by part."""

    def __init__(self, results: Results, judgement: Judgement) -> None:
        """Keep the results; nothing is computed yet."""
        self.results, self.judgement = results, judgement
        self.deploy = results.params.deploy
        train = results.params.train
        self.colours = recipe_colours(results.params.distill.run)
        self.labels = {
            model: label(
                network, several_seeds=len(train.seeds) > 1, several_students=len(train.students) > 1
            )
            for model, network in results.networks.items()
        }

    def colour(self, model: str) -> str:
        """The colour of a model's role."""
        return self.colours[self.results.networks[model].recipe]

    def headline(self) -> dict[str, Any]:
        """Title, verdict, first sentence and the cards of the released model."""
        failed = self.judgement.failed()
        dataset = self.results.data.info.name
        verdict = "all gates met" if not failed else f"{len(failed)} gate(s) failed, nothing was released"
        return {
            "title": f"Distilled segmentation networks on {dataset}",
            "passed": not failed,
            "verdict": verdict,
            "lede": self._lede(),
            "cards": self._cards(),
        }

    def _lede(self) -> str:
        info, params = self.results.data.info, self.results.params
        seeds = len(params.train.seeds)
        return (
            f"{len(info.classes)} classes, {info.splits['train']} training images, input "
            f"{self.deploy.export.input_size[0]}×{self.deploy.export.input_size[1]}. Every number below was "
            f"measured on the exported engine, not on the checkpoint. "
            + (
                "One training seed: differences of a point or two between students are within its noise."
                if seeds == 1
                else f"{seeds} training seeds."
            )
        )

    def _cards(self) -> list[dict[str, str]]:
        if not self.deploy.release:
            return []
        model = self.deploy.release[0]
        target = self._fastest(model)
        score, timing = self.results.scores[model, target], self.results.benchmarks[target].models[model]
        cards = [
            (percent(score.miou) + " %", f"mIoU of {self.labels[model]} on {target}"),
            (short(timing.latency_ms.p50, " ms"), f"median latency, {_threads(timing.threads)}"),
            (short(self.results.engines[model, target].size() / 1e6, " MB"), "engine file"),
        ]
        if TEACHER in self.deploy.models:
            teacher = self.results.scores[TEACHER, target]
            kept = score.miou / teacher.miou if teacher.miou else None
            cards.insert(1, (percent(kept, 0) + " %", "of the teacher's mIoU on the same target"))
            cards.insert(2, (short(timing.speedup, "×"), "faster than the teacher on the same target"))
        return [{"value": value, "label": text} for value, text in cards]

    def _fastest(self, model: str) -> str:
        return min(
            self.deploy.targets,
            key=lambda target: self.results.benchmarks[target].models[model].latency_ms.p50,
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """The table of every model on every engine."""
        for model in self.deploy.models:
            for position, target in enumerate(self.deploy.targets):
                score, reference = self.results.scores[model, target], self.results.references[model]
                timing = self.results.benchmarks[target].models[model]
                size = self.results.complexity["networks"][self._complexity_key(model)]
                unsteady = "" if timing.steadiness.stable else " *"
                drops = [
                    value - before
                    for name in score.classes
                    if (value := score.iou[name]) is not None and (before := reference.iou[name]) is not None
                ]
                yield {
                    "first": position == 0,
                    "released": model in self.deploy.release,
                    "colour": self.colour(model),
                    "label": self.labels[model] if position == 0 else "",
                    "target": target,
                    "miou": percent(score.miou),
                    "drop": points(score.miou - reference.miou),
                    "class_drop": points(min(drops)) if drops else NOTHING,
                    "agreement": percent(score.agreement, 2),
                    "p50": short(timing.latency_ms.p50) + unsteady,
                    "p90": short(timing.latency_ms.p90),
                    "speedup": NOTHING if model == TEACHER else short(timing.speedup, "×"),
                    "size": short(self.results.engines[model, target].size() / 1e6),
                    "parameters": count(size["parameters"]) if position == 0 else "",
                    "gmacs": f"{size['gmacs']:.3g}" if position == 0 else "",
                }

    def _complexity_key(self, model: str) -> str:
        network = self.results.networks[model]
        return network.student or TEACHER

    def engines(self) -> dict[str, Any]:
        """The table, the Pareto figure and the notes on both."""
        settings = self.deploy.benchmark
        reports = self.results.benchmarks.values()
        unsteady = any(not found.steadiness.stable for report in reports for found in report.models.values())
        note = (
            f"Latency: batch {settings.batch_size}, end to end from an image in host memory to a class map, "
            f"{settings.rounds} rounds of {settings.iterations} calls, the models in turn."
        )
        if unsteady:
            note += " * unsteady: the rounds disagree, and relative latency gates are not judged."
        counted = self.results.complexity["networks"][TEACHER]["counted_as_zero"]
        return {
            "rows": list(self.rows()),
            "test_images": self.results.data.info.splits["test"],
            "latency_note": note,
            "table_note": (
                "Green rows are those to release. GMAC: multiply-accumulates of the network as deployed, "
                "counted by fvcore (one multiply-add is one MAC); it knows no count for "
                + (", ".join(counted) or "no operator")
                + ", taken as zero."
            ),
            "pareto": figures.pareto(self.points(), self.labels),
        }

    def points(self) -> list[figures.Point]:
        """Every engine as a point of accuracy over latency."""
        return [
            figures.Point(
                model=model,
                target=target,
                precision=self.deploy.specs[target].precision,
                p50_ms=self.results.benchmarks[target].models[model].latency_ms.p50,
                miou=self.results.scores[model, target].miou,
                colour=self.colour(model),
                stable=self.results.benchmarks[target].models[model].steadiness.stable,
            )
            for model in self.deploy.models
            for target in self.deploy.targets
        ]

    def gates(self) -> dict[str, Any]:
        """The verdict table and what is worth knowing beside it."""
        return {
            "gates": [self._gate(verdict) for verdict in self.judgement.verdicts],
            "remarks": [
                f"{self.labels[note.model]} on {note.target}: {note.detail}" for note in self.judgement.notes
            ],
        }

    def _gate(self, verdict: Verdict) -> dict[str, str]:
        return {
            "name": verdict.name.replace("_", " "),
            "model": self.labels[verdict.model],
            "target": verdict.target,
            "value": NOTHING if verdict.value is None else f"{verdict.value:.4g}",
            "limit": NOTHING if verdict.limit is None else f"{verdict.limit:g}",
            "status": verdict.status,
            "style": VERDICT_STYLES[verdict.status],
            "detail": verdict.detail,
        }

    def classes(self) -> dict[str, Any]:
        """IoU of each class on the first target."""
        target, classes = self.deploy.targets[0], self.results.data.info.classes
        series = [
            (
                self.labels[model],
                self.colour(model),
                [self.results.scores[model, target].iou[name] for name in classes],
            )
            for model in self.deploy.models
        ]
        return {"class_target": target, "class_bars": figures.class_bars(classes, series)}

    def gallery(self) -> dict[str, Any]:
        """Rows of image, truth, and what chosen engines made of it."""
        info, size = self.results.data.info, self.deploy.export.input_size
        palette = [(r, g, b) for r, g, b in info.palette]
        shown = self._gallery_columns()
        maps = {(model, target): self.results.gallery(model, target) for model, target, _ in shown}
        rows = []
        for entry in self.results.data.split("test"):
            if not all(entry.name in found for found in maps.values()):
                break
            width = min(PICTURE_WIDTH, max(entry.width, size[1]))
            row = [
                gallery.embed(self.results.data.image(entry), f"{entry.name}, image", width),
                gallery.embed_map(self.results.data.labels(entry), palette, f"{entry.name}, truth", width),
            ]
            row += [
                gallery.embed_map(maps[model, target][entry.name], palette, f"{entry.name}, {head}", width)
                for model, target, head in shown
            ]
            rows.append(row)
        return {
            "gallery": {"columns": ["image", "truth", *(head for *_, head in shown)], "rows": rows},
            "legend": [
                {"name": name, "colour": f"rgb{tuple(colour)}"}
                for name, colour in zip(info.classes, palette, strict=True)
            ],
        }

    def _gallery_columns(self) -> list[tuple[str, str, str]]:
        """(model, target, heading): teacher, control, the released one, and it on every further target."""
        first, *others = self.deploy.targets
        networks = self.results.networks
        released = self.deploy.release[:1] or [m for m in self.deploy.models if networks[m].student][-1:]
        controls = [self.results.controls().get(model) for model in released]
        chosen = [TEACHER, *(c for c in controls if c), *released]
        columns = [(m, first, self.labels[m]) for m in chosen if m in self.deploy.models]
        return columns + [(m, t, f"{self.labels[m]}, {t}") for m in released for t in others]

    def training(self) -> dict[str, Any]:
        """Curves and the last values of every term."""
        practice = self.results.params.train.practice
        curves = [
            figures.Curve(
                label=self.labels[model],
                colour=self.colour(model),
                loss=_column(rows, "loss"),
                val_miou=_column(rows, "val_miou"),
            )
            for model, rows in self.results.curves.items()
        ]
        return {
            "curves": figures.training_curves(curves),
            "trainings": [
                self._training(network, rows)
                for network, rows in zip(
                    self.results.networks.values(), self.results.curves.values(), strict=True
                )
            ],
            "training_note": (
                f"Checkpoints are chosen on val; test was read once, by the engines. Class weights: "
                f"{practice.class_weights}; precision: {practice.precision}. Losses of different recipes are "
                "sums of different terms and do not compare."
            ),
        }

    def _training(self, network: Network, rows: list[dict[str, float | None]]) -> dict[str, Any]:
        scores = _column(rows, "val_miou")
        best = max(scores, key=lambda pair: pair[1]) if scores else None
        last = rows[-1] if rows else {}
        rates = [rate for _, rate in _column(rows, "images_per_second")]
        raw = {name: last[name] for name in last if f"weighted/{name}" in last}
        terms = [
            f"{name.replace('_', ' ')} {value:.3g} × {_ratio(last[f'weighted/{name}'], value)}"
            for name, value in raw.items()
            if value is not None
        ]
        return {
            "label": self.labels[network.model],
            "colour": self.colour(network.model),
            "iterations": f"{last['iteration']:.0f}" if rows else "imported",
            "best": best[0] if best else NOTHING,
            "miou": percent(best[1]) if best else NOTHING,
            "seconds": f"{last['seconds']:.0f}" if rows else NOTHING,
            "rate": f"{sorted(rates)[len(rates) // 2]:.0f}" if rates else NOTHING,
            "terms": ", ".join(terms) or NOTHING,
        }

    def provenance(self) -> dict[str, Any]:
        """The machine, and what data and settings made the numbers."""
        machine = self.results.hardware
        info = self.results.data.info
        versions = machine.get("versions", {})
        return {
            "hardware": list(_flat(machine, skip=("versions",))),
            "provenance": [
                ("data set", f"{info.name}: {', '.join(f'{n} {split}' for split, n in info.splits.items())}"),
                ("manifest", self.results.data.sha256[:16]),
                ("licence of the data", info.licence),
                ("seeds", ", ".join(map(str, self.results.params.train.seeds))),
                ("recipes", ", ".join(self.results.params.distill.run) or "none"),
                *((name, version) for name, version in versions.items()),
            ],
            "footer": (
                "Written by the report stage of dvc repro; the same numbers lie in reports/metrics.json and "
                "reports/gates.json. A repeated run on another machine measures anew."
            ),
        }

    def page(self) -> dict[str, Any]:
        """Everything that the template asks for."""
        parts = (
            self.headline,
            self.engines,
            self.gates,
            self.classes,
            self.gallery,
            self.training,
            self.provenance,
        )
        return {name: value for part in parts for name, value in part().items()}


def _threads(threads: int) -> str:
    return f"{threads} thread" + ("s" if threads != 1 else "")


def _column(rows: list[dict[str, float | None]], name: str) -> list[tuple[int, float]]:
    found = []
    for row in rows:
        iteration, value = row["iteration"], row.get(name)
        if iteration is not None and value is not None:
            found.append((int(iteration), value))
    return found


def _ratio(weighted: float | None, raw: float) -> str:
    return NOTHING if weighted is None or raw == 0 else f"{weighted / raw:.3g}"


def _flat(
    value: dict[str, Any], *, skip: tuple[str, ...] = (), prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Nested settings as (name, text) pairs."""
    for name, inner in value.items():
        if name in skip:
            continue
        if isinstance(inner, dict):
            yield from _flat(inner, prefix=f"{prefix}{name} ")
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
            yield f"{prefix}{name}".replace("_", " "), text or "none"
