from __future__ import annotations

from typing import Any

import pytest

from deploy.config import GatesConfig
from deploy.gates import Judgement, Measurement, Verdict, judge, not_worth_shipping

LIMITS: dict[str, Any] = {
    "min_retention": 0.9,
    "min_gain_over_alone": 0.0,
    "max_drop": {"fp32": 0.1, "int8": 1.0},
    "max_class_drop": {"fp32": 0.5, "int8": 3.0},
    "min_speedup_over_teacher": 2.0,
    "max_size_mb": 5.0,
    "max_p50_ms": {"cpu": 10.0},
    "max_p99_ms": {},
}

STUDENT = Measurement(
    backend="onnxruntime",
    precision="int8",
    miou=0.60,
    iou={"road": 0.9, "sky": 0.3, "car": None},
    reference_miou=0.605,
    reference_iou={"road": 0.9, "sky": 0.31, "car": None},
    bytes=1_000_000,
    p50_ms=4.0,
    p99_ms=None,
    unstable=None,
    speedup=3.0,
)
TEACHER = STUDENT._replace(miou=0.65, p50_ms=12.0, speedup=1.0)
ALONE = STUDENT._replace(miou=0.59)
SETTING = {("s_kd_0", "cpu"): STUDENT, ("teacher", "cpu"): TEACHER, ("s_alone_0", "cpu"): ALONE}


def run(
    measured: dict[tuple[str, str], Measurement] | None = None, released: str = "s_kd_0", **limits: Any
) -> Judgement:
    return judge(
        measured or SETTING,
        GatesConfig.model_validate(LIMITS | limits),
        released=[released],
        targets=["cpu"],
        teacher="teacher",
        controls={"s_kd_0": "s_alone_0"},
    )


def verdict(name: str, judgement: Judgement) -> Verdict:
    (found,) = [item for item in judgement.verdicts if item.name == name]
    return found


def changed(who: str = "s_kd_0", **fields: Any) -> dict[tuple[str, str], Measurement]:
    return SETTING | {(who, "cpu"): SETTING[who, "cpu"]._replace(**fields)}


def test_all_gates_met() -> None:
    judgement = run()
    assert {item.name: item.status for item in judgement.verdicts} == {
        "min_retention": "pass",
        "min_gain_over_alone": "pass",
        "max_drop": "pass",
        "max_class_drop": "pass",
        "min_speedup_over_teacher": "pass",
        "max_size_mb": "pass",
        "max_p50_ms": "pass",
        "max_p99_ms": "not gated",
    }
    assert judgement.failed() == []
    assert verdict("min_retention", judgement).value == pytest.approx(0.6 / 0.65, abs=1e-6)
    assert verdict("max_class_drop", judgement).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "measured", "missed"),
    [
        ("min_retention", changed("teacher", miou=0.6 / 0.85), "missed by 0.050"),
        ("min_gain_over_alone", changed("s_alone_0", miou=0.6125), "-1.25 points of mIoU over s_alone_0"),
        ("max_drop", changed(reference_miou=0.6153), "missed by 0.53 points"),
        ("max_class_drop", changed(reference_iou={"road": 0.9, "sky": 0.34}), "on sky: 4.00 points"),
        ("min_speedup_over_teacher", changed(speedup=1.5), "missed by 0.50x"),
        ("max_size_mb", changed(bytes=7_250_000), "missed by 2.25 MB"),
        ("max_p50_ms", changed(p50_ms=10.25), "missed by 0.250 ms"),
    ],
)
def test_each_gate_fails_alone_and_says_by_how_much(
    name: str, measured: dict[tuple[str, str], Measurement], missed: str
) -> None:
    judgement = run(measured)
    assert [item.name for item in judgement.failed()] == [name]
    assert missed in verdict(name, judgement).detail


def test_a_value_at_its_limit_passes_and_a_hair_beyond_fails_visibly() -> None:
    assert verdict("min_speedup_over_teacher", run(changed(speedup=2.0))).status == "pass"
    beyond = verdict("max_size_mb", run(changed(bytes=5_000_001)))
    assert beyond.status == "fail" and "missed by 0.01 MB" in beyond.detail


def test_null_is_not_gated() -> None:
    names = ("min_retention", "min_gain_over_alone", "min_speedup_over_teacher", "max_size_mb")
    judgement = run(changed(bytes=10**9, speedup=0.1), **dict.fromkeys(names))
    assert all(verdict(name, judgement).status == "not gated" for name in names)
    assert verdict("max_drop", run(max_drop={"fp32": 0.1})).status == "not gated"
    assert verdict("max_drop", run(max_drop={"int8": None})).status == "not gated"


@pytest.mark.parametrize("who", ["s_kd_0", "teacher"])
def test_unstable_relative_latency_is_not_judged(who: str) -> None:
    judgement = run(changed(who, unstable="the medians vary by 40%"), max_p50_ms={})
    found = verdict("min_speedup_over_teacher", judgement)
    assert found.status == "not judged" and found.value is None and who in found.detail
    assert judgement.failed() == []


def test_unstable_absolute_latency_fails() -> None:
    found = verdict("max_p50_ms", run(changed(unstable="the medians vary by 40%")))
    assert (found.status, found.value) == ("fail", 4.0) and "vary by 40%" in found.detail


def test_a_p99_limit_without_enough_calls_fails() -> None:
    found = verdict("max_p99_ms", run(max_p99_ms={"cpu": 9.0}))
    assert found.status == "fail" and "662 calls" in found.detail
    assert verdict("max_p99_ms", run(changed(p99_ms=8.0), max_p99_ms={"cpu": 9.0})).status == "pass"


def test_what_is_not_deployed_cannot_be_judged_against() -> None:
    judgement = run({("s_kd_0", "cpu"): STUDENT._replace(speedup=None)})
    for name in ("min_retention", "min_gain_over_alone", "min_speedup_over_teacher"):
        assert verdict(name, judgement).status == "not judged"
        assert "not deployed" in verdict(name, judgement).detail
    assert verdict("min_gain_over_alone", run(released="s_alone_0")).status == "not judged"
    assert verdict("min_speedup_over_teacher", run(released="teacher")).status == "not judged"


def test_a_variant_hardly_faster_than_its_parent_is_noted() -> None:
    parent = STUDENT._replace(precision="fp32", p50_ms=4.1)
    measured = {("s", "cpu_fp32"): parent, ("s", "cpu_int8"): STUDENT}
    (note,) = not_worth_shipping(measured)
    assert (note.model, note.target) == ("s", "cpu_int8") and "1.02x the speed of cpu_fp32" in note.detail
    for other in (
        parent._replace(p50_ms=4.3),
        parent._replace(backend="openvino"),
        parent._replace(unstable="noise"),
        parent._replace(precision="fp16"),
    ):
        assert not any(
            n.target == "cpu_int8" for n in not_worth_shipping(measured | {("s", "cpu_fp32"): other})
        )
    assert not_worth_shipping({("t", "cpu_fp32"): parent, ("s", "cpu_int8"): STUDENT}) == []
