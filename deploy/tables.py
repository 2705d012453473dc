"""What `python -m deploy` shows a person: records as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from deploy.benchmark import Report
from deploy.bundle import Manifest
from deploy.check import Finding
from deploy.evaluate import Score
from deploy.protocols import ProtocolScore


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    """A table with its first column as text and the others as numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        if index == 0:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def latency(report: Report) -> Table:
    """A row a model; below, why a latency cannot be trusted."""
    settings = report.settings
    table = _table(
        f"milliseconds a call of batch {settings.batch_size}, {report.inputs}; "
        f"load {report.load_average_before:.1f} before, {report.load_average_after:.1f} after",
        ["model", "p50", "p90", "p99", "CPU p50", "images/s", "ratio", "MiB", "steady"],
    )
    for name, result in report.models.items():
        times = result.latency_ms
        table.add_row(
            name,
            _number(times.p50),
            _number(times.p90),
            _number(times.p99),
            _number(result.cpu_ms.p50),
            _number(result.throughput, 1),
            _number(result.speedup, 2),
            _number(result.memory_mib, 1),
            "yes" if result.steadiness.stable else "no",
        )
    unsteady = {name: result.steadiness.reason for name, result in report.models.items()}
    table.caption = "\n".join(f"{name}: {reason}" for name, reason in unsteady.items() if reason) or None
    return table


def accuracy(score: Score) -> Table:
    """A row a class, and the means."""
    table = _table(
        f"{score.images} images at {score.input_size[0]}x{score.input_size[1]} ({score.fit})",
        ["class", "IoU %"],
    )
    for name in score.classes:
        value = score.iou[name]
        table.add_row(name, _number(None if value is None else 100 * value, 2))
    table.add_section()
    table.add_row("mean IoU", _number(100 * score.miou, 2))
    table.add_row("pixel accuracy", _number(100 * score.pixel_accuracy, 2))
    return table


def protocol(score: ProtocolScore) -> Table:
    """A row a class, the means, and below how the images were seen."""
    used = score.protocol
    table = _table(
        f"{score.images} images, {used.view}; not what gates judge", ["class", "IoU %", "boundary IoU %"]
    )
    boundary = score.boundary_iou or dict.fromkeys(score.classes)
    for name in score.classes:
        row = [None if value is None else 100 * value for value in (score.iou[name], boundary[name])]
        table.add_row(name, *(_number(value, 2) for value in row))
    table.add_section()
    edge = None if score.boundary_miou is None else 100 * score.boundary_miou
    table.add_row("mean IoU", _number(100 * score.miou, 2), _number(edge, 2))
    table.add_row("pixel accuracy", _number(100 * score.pixel_accuracy, 2), _number(None))
    windows = (
        f"windows {used.crop}, stride {used.stride}" if used.view == "slide" else f"at {score.input_size}"
    )
    scales = ", ".join(f"{scale:g}" for scale in used.scales)
    table.caption = (
        f"{windows}; flip {'yes' if used.flip else 'no'}; scales {scales}; absent classes "
        f"{'count 0' if used.absent == 'zero' else 'are left out'}"
        + (f" ({', '.join(score.absent_classes)})" if score.absent_classes else "")
    )
    return table


def contents(manifest: Manifest) -> Table:
    """The files of a verified bundle."""
    table = _table(
        f"{manifest.model} on {manifest.target}: {manifest.backend} {manifest.precision}, "
        f"{len(manifest.contract.classes)} classes, all files as the manifest says",
        ["file", "bytes", "SHA-256"],
    )
    for name, record in manifest.files.items():
        table.add_row(name, f"{record.bytes:,}", record.sha256[:16])
    return table


def findings(found: Sequence[Finding]) -> Table:
    """What the check of a graph says."""
    table = Table("", "rule", "where", "finding", "remedy", show_lines=True)
    table.title = "nothing found" if not found else None
    for finding in found:
        table.add_row(finding.level, finding.rule, finding.place, finding.says, finding.remedy)
    return table


def engines(found: dict[str, str | None]) -> Table:
    """A row a backend: ready, or what is missing."""
    table = Table(title="engines on this machine", title_justify="left")
    table.add_column("backend")
    table.add_column("state")
    for name, reason in found.items():
        table.add_row(name, "[green]ready[/green]" if reason is None else f"[yellow]{reason}[/yellow]")
    return table
