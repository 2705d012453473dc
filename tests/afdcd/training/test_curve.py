from __future__ import annotations

from pathlib import Path

from afdcd.training.curve import row, write_curve


def test_terms_stand_between_and_missing_cells_are_empty(tmp_path: Path) -> None:
    rows = [
        row(1, 0.5, 0.1, 80.0, {"loss": 2.0, "ce": 1.5}),
        row(2, 1.0, 0.05, 80.0, {"loss": 1.0, "ce": 0.5, "val_miou": 0.25}),
    ]
    write_curve(tmp_path / "curve.csv", rows)
    assert (tmp_path / "curve.csv").read_text().splitlines() == [
        "iteration,seconds,lr,images_per_second,loss,ce,val_miou",
        "1,0.5,0.1,80.0,2.0,1.5,",
        "2,1.0,0.05,80.0,1.0,0.5,0.25",
    ]


def test_no_rows_leave_the_header(tmp_path: Path) -> None:
    write_curve(tmp_path / "curve.csv", [])
    assert (tmp_path / "curve.csv").read_text() == "iteration,seconds,lr,images_per_second,loss,val_miou\n"
