"""What presets ask of engines, by precision, pair and schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
from clone import ROOT

from pipeline import configure, params

AGREEMENT = {"fp32": 0.9999, "fp16": 0.998, "bf16": 0.99, "int8": 0.98}
MOBILE = ("r101_mbv2", "r101_mnv3", "r101_mnv4", "r101_lite0", "r50_mbv2_ka")


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ([], {}),
        (["pair=r101_r18"], {}),
        *((["dataset=cityscapes", f"pair={pair}"], {"int8": 0.95}) for pair in MOBILE),
        *(
            ([f"dataset={dataset}", "schedule=smoke"], dict.fromkeys(("fp16", "bf16", "int8")))
            for dataset in ("streets", "folder", "camvid")
        ),
    ],
)
def test_agreement_is_asked_for_by_precision_pair_and_schedule(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    changes: dict[str, float | None],
) -> None:
    monkeypatch.chdir(ROOT)
    target = tmp_path / "params.yaml"
    configure.write(overrides, target)
    gates = params.load(target).gates
    assert gates.min_agreement == AGREEMENT | changes
    assert gates.max_relative_error == {"fp32": 1e-4, "fp16": None, "bf16": None, "int8": None}
    assert (gates.export_min_agreement, gates.export_max_relative_error) == (0.9999, 1e-4)
