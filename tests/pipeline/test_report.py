from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import fake_run
import pytest

from afdcd.errors import UserError
from afdcd.files import read_json, write_json
from deploy.benchmark import Report
from deploy.bundle import MANIFEST, read_manifest, write_model
from deploy.quantisation import Candidate, Layer, Quantisation
from pipeline import gate, paths, report
from pipeline.reporting.figures import Point, frontier
from pipeline.reporting.words import count, percent, points, short
from pipeline.results import read_typed


def point(model: str, p50: float, miou: float) -> Point:
    return Point(model, "t", "fp32", p50, miou, "#000", True)


def test_the_frontier_holds_only_what_nothing_else_beats() -> None:
    shown = frontier(
        [point("slow", 9, 0.7), point("fast", 1, 0.5), point("worse", 2, 0.4), point("twin", 9, 0.6)]
    )
    assert [p.model for p in shown] == ["fast", "slow"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.12345), "12.3"),
        (percent(None), "–"),
        (points(-0.004), "-0.40"),
        (points(-0.00001), "0.00"),
        (short(123.4, " ms"), "123 ms"),
        (short(1.234), "1.23"),
        (count(252721), "253 k"),
        (count(61_120_000), "61.1 M"),
    ],
)
def test_numbers_are_written_one_way(text: str, expected: str) -> None:
    assert text == expected


class Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"src"} if tag != "link" else {"src", "href"}
        self.found += [value or "" for name, value in attrs if name in wanted]


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete run of fake engines, up to the stage report; the working folder is in it."""
    params = Path(__file__).parents[2] / "params.yaml"
    monkeypatch.chdir(tmp_path)
    fake_run.write_project(tmp_path, params.read_text())
    fake_run.complete()
    return tmp_path


def test_the_page_needs_nothing_from_outside_and_shows_the_scores(run_folder: Path) -> None:
    report.main([])
    page = paths.REPORT.read_text()
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith("data:image/png;base64,") for link in links.found)
    assert "@import" not in page and "<script" not in page
    # Students see classes 0 and 1 of 3; the third has IoU 0 and shares its pixels with class 1.
    metrics = read_json(paths.METRICS)
    shown = f"{metrics['narrow_r18_kd_0'][fake_run.TARGET]['miou']:.2f}"
    assert f"<td>{shown}</td>" in page and "<td>100.00</td>" in page
    for part in ("Gates", "IoU of each class", "What the engines see", "Training", "Some CPU"):
        assert part in page
    assert "<th>p50 ms</th><th>compute ms</th>" in page and "export max relative error" in page
    timing = read_typed(Report, paths.benchmark(fake_run.TARGET)).models["teacher"]
    assert timing.compute_ms is not None and f"<td>{short(timing.compute_ms.p50)}</td>" in page
    for name in ("pareto.svg", "curves.svg", "class_bars.svg", "curves.csv", "pareto.csv", "classes.csv"):
        assert (paths.PLOTS / name).stat().st_size > 0


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    report.main([])
    first = {path: path.read_bytes() for path in sorted(Path("reports").rglob("*")) if path.is_file()}
    report.main([])
    assert first == {path: path.read_bytes() for path in first}


def test_a_failed_gate_is_shown_and_stops_at_the_gate(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    changed = re.sub(r"min_retention: .*", "min_retention: 0.99", text)
    assert changed != text
    Path("params.yaml").write_text(changed)
    report.main([])
    page = paths.REPORT.read_text()
    assert "1 gate(s) failed, nothing was released" in page and 'class="l fail"' in page
    with pytest.raises(UserError, match="min_retention"):
        gate.main([])


def test_curves_of_an_imported_teacher_may_be_empty(run_folder: Path) -> None:
    paths.curve("teacher").write_text("iteration,seconds,lr,images_per_second,loss,val_miou\n")
    report.main([])
    assert "imported" in paths.REPORT.read_text()


def test_unsteady_timings_are_marked(run_folder: Path) -> None:
    found = read_json(paths.benchmark(fake_run.TARGET))
    found["models"]["teacher"]["steadiness"] = {"cv": 0.5, "stable": False, "reason": "rounds vary by 50 %"}
    write_json(paths.benchmark(fake_run.TARGET), found)
    report.main([])
    page = paths.REPORT.read_text()
    assert " *</td>" in page and "* unsteady" in page


def _quantised(kept: list[str]) -> None:
    """The student's engine as one that was quantised, in float where `kept` says."""
    path = paths.engine(fake_run.TARGET, fake_run.RELEASED) / MANIFEST
    known = read_manifest(path.parent)
    layers = [("head.conv", 12.3, 0.05), ("stem.conv", 23.4, 0.15), ("body.conv", None, 0.8)]
    names = ["minmax", *([f"minmax, {len(kept)} in float"] if kept else [])]
    record = Quantisation(
        precision="int8",
        preset="u8s8_per_channel",
        chosen=names[-1],
        candidates=[
            Candidate(name=name, kept=kept, miou=0.5, agreement=0.987, sqnr_db=31.4) for name in names
        ],
        float_miou=0.512,
        judged_on="onnxruntime",
        val_images=7,
        calibration_images=8,
        calibration_sha256="0" * 64,
        operators=["Conv"],
        layers=[Layer(name=name, sqnr_db=sqnr, macs=macs) for name, sqnr, macs in layers],
        kept=kept,
    )
    write_model(path, known.model_copy(update={"quantisation": record.model_dump(mode="json")}))


def test_what_int8_cost_and_which_layers_stay_in_float(run_folder: Path) -> None:
    report.main([])
    assert "What INT8 costs" not in paths.REPORT.read_text(), "nothing was quantised"
    _quantised(["head.conv", "stem.conv"])
    report.main([])
    page = paths.REPORT.read_text()
    assert "Calibrated on 8 training images, judged on 7 val images" in page
    assert "<td>50.00</td><td>-1.20</td><td>98.70</td><td>31.4</td>" in page
    assert "head.conv (12.3 dB), stem.conv (23.4 dB): 20.0 % of the MACs" in page
    _quantised([])
    report.main([])
    page = paths.REPORT.read_text()
    assert "none, no gain on val; lowest are head.conv (12.3 dB), stem.conv (23.4 dB), body.conv (–)" in page
