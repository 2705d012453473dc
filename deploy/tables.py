"""What `python -m deploy` shows a person: records as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.benchmark import Report
from deploy.bundle import Manifest
from deploy.clashes import Clash
from deploy.comparison import Compared
from deploy.evaluate import Score
from deploy.latency import Latency
from deploy.parity import Parity
from deploy.protocols import ProtocolScore
from deploy.quantisation import Quantisation
from deploy.scenarios import Load

if TYPE_CHECKING:  # they take onnx along, which a device that measures can do without
    from deploy.check import Finding
    from deploy.macs import Macs


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


MANY = 7
"""So many columns of numbers leave no room for names in 80 columns between lines."""


def slim(table: Table) -> None:
    """Take the lines between columns out, in place."""
    table.box, table.collapse_padding, table.pad_edge = SIMPLE_HEAD, True, False


def _table(title: str, columns: Sequence[str]) -> Table:
    """A table with its first column as text and the others as numbers."""
    table = Table(title=title, title_justify="left")
    if len(columns) > MANY:
        slim(table)
    for index, name in enumerate(columns):
        if index == 0:
            table.add_column(name, overflow="fold", min_width=8)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def latency(report: Report) -> Table:
    """A row a model; below, why a latency cannot be trusted."""
    settings = report.settings
    names = ["model", "p50", "p90", "p99", "compute\np50", "CPU\np50", "images\n/s", "ratio", "MiB", "steady"]
    table = _table(
        f"milliseconds a call of batch {settings.batch_size}, {report.inputs}; "
        f"load {report.load_average_before:.1f} before, {report.load_average_after:.1f} after",
        names,
    )
    for name, result in report.models.items():
        times = result.latency_ms
        table.add_row(
            name,
            _number(times.p50),
            _number(times.p90),
            _number(times.p99),
            _number(None if result.compute_ms is None else result.compute_ms.p50),
            _number(result.cpu_ms.p50),
            _number(result.throughput, 1),
            _number(result.speedup, 2),
            _number(result.memory_mib, 1),
            "yes" if result.steadiness.stable else "no",
        )
    unsteady = {name: result.steadiness.reason for name, result in report.models.items()}
    table.caption = "\n".join(f"{name}: {reason}" for name, reason in unsteady.items() if reason) or None
    return table


def benchmark(report: Report, macs: Mapping[str, Macs | str], loads: Mapping[str, Sequence[Load]]) -> Group:
    """Latency, work and load, each in a table; `macs` gives for each model the count or why there is none."""
    table = _table(
        "work a call",
        ["model", "GMACs", "GFLOP", "effective", "GFLOP/s", "computes", "of peak %"],
    )
    notes = []
    for name, found in macs.items():
        if isinstance(found, str):
            table.add_row(name, *[_number(None)] * 6)
            notes.append(f"{name}: {found}")
            continue
        did = report.work[name]
        figures = (found.gmacs, found.gflops, found.effective_gflops, did.gflops_per_second)
        share = None if did.share is None else 100 * did.share
        table.add_row(name, *(_number(value) for value in figures), did.precision, _number(share, 1))
        if found.uncounted:
            notes.append(f"{name}: {', '.join(found.uncounted)} are not counted")
    if (peak := report.peak) is not None:
        reached = (f"{kind} {value:.0f} ({peak.by[kind]})" for kind, value in peak.gflops.items() if value)
        notes.append(f"peak on {peak.threads} thread(s), GFLOP/s: {'; '.join(reached)}")
    table.caption = "\n".join(notes) or None
    shown = [latency(report), table]
    if any(loads.values()):
        shown.append(_loads(loads))
    return Group(*shown)


def _loads(loads: Mapping[str, Sequence[Load]]) -> Table:
    table = _table(
        "load: server latencies count from the planned arrival",
        ["model", "scenario", "streams", "queries", "calls/s", "rate", "p50", "p90", "p99"],
    )
    for name, found in loads.items():
        for one in found:
            times = one.latency_ms
            table.add_row(
                name,
                one.kind,
                str(one.streams),
                str(one.queries),
                _number(one.throughput, 2),
                _number(one.rate, 2),
                *map(_number, _shown(times)),
            )
    return table


def _shown(times: Latency | None) -> tuple[float | None, ...]:
    return (None, None, None) if times is None else (times.p50, times.p90, times.p99)


def parity(found: Parity, against: str = "PyTorch") -> Table:
    """A row a shape and kind of input."""
    table = _table(
        f"{found.images} images against {against}",
        ["input", "shape", "agreement", "largest relative error", "SQNR dB"],
    )
    for case in found.cases:
        table.add_row(
            case.kind,
            "x".join(map(str, case.shape)),
            _number(case.agreement, 6),
            f"{case.max_relative_error:.1e}",
            _number(case.sqnr_db, 1),
        )
    return table


def comparison(found: Mapping[str, Compared]) -> Table:
    """A row a model; the first is the reference."""
    names = ["MB", "agreement", "relative error", "SQNR dB", "mIoU %", "p50 ms"]
    table = _table(f"against {next(iter(found))}", ["model", *names])
    for name, one in found.items():
        error = one.max_relative_error
        table.add_row(
            name,
            _number(one.bytes / 1e6, 2),
            _number(one.agreement, 6),
            _number(None) if error is None else f"{error:.1e}",
            _number(one.sqnr_db, 1),
            _number(None if one.miou is None else 100 * one.miou, 2),
            _number(one.p50_ms),
        )
    table.caption = f"{one.inputs} kinds of input; mIoU and latency where they were measured"
    return table


def candidates(record: Quantisation) -> Table:
    """A row a candidate; below, the layers that stay in float."""
    title = f"INT8, preset {record.preset}, judged on {record.val_images} images"
    names = ["candidate", "mIoU %", "agreement", "SQNR dB", "chosen"]
    table = _table(title + ("" if record.float_miou is not None else " without labels"), names)
    for one in record.candidates:
        chosen = "yes" if one.name == record.chosen else ""
        miou = _number(None if one.miou is None else 100 * one.miou, 2)
        table.add_row(one.name, miou, _number(one.agreement, 4), _number(one.sqnr_db, 1), chosen)
    table.caption = f"in float stay {', '.join(record.kept)}" if record.kept else None
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
        f"{len(manifest.contract.classes)} classes, all files as the manifest says"
        f"{manifest.form()}",
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


def engines(
    found: Mapping[str, str | None], libraries: Mapping[str, Mapping[str, str]], clashes: Sequence[Clash]
) -> Group:
    """A row a backend and precision: its library, and ready or what is missing; below, what clashes."""
    table = Table(title="engines on this machine", title_justify="left")
    for name in ("backend", "installed", "state"):
        table.add_column(name, overflow="fold")
    before = ""
    for name, reason in found.items():
        backend = name.split()[0]
        shown = "\n".join(f"{key} {value}" for key, value in libraries.get(backend, {}).items()) or "–"
        state = Text("ready", "green") if reason is None else Text(reason, "yellow")
        table.add_row(name, "" if backend == before else shown, state)
        before = backend
    notes = [Text(f"warning: {clash.sentence()}", "red") for clash in clashes]
    return Group(table, *(notes or [Text("no clash between the installed packages")]))
