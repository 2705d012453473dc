"""What a release must meet: measurements and limits in, one verdict a gate out; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from deploy.config import Config, GatesConfig, Precision
from deploy.latency import MIN_SAMPLES

Status = Literal["pass", "fail", "not judged", "not gated"]
Key = tuple[str, str]
"""(model, target)."""

WORTH = 0.95
"""A narrower precision has to bring its p50 to this share of its fp32 parent's to be worth its loss."""


class Verdict(Config):
    """One gate of one model on one target.

    Attributes:
        value: what was measured, in the unit of the limit; null when it could not be.
        limit: from params; null when not gated.
        status: "not judged" when the value is missing or a relative latency is unstable; only "fail" blocks.
        detail: the sentence a person reads; a failure says by how much.
    """

    name: str
    model: str
    target: str
    value: float | None
    limit: float | None
    status: Status
    detail: str


class Note(Config):
    """Something worth knowing that blocks nothing."""

    model: str
    target: str
    detail: str


class Judgement(Config):
    """All verdicts and notes of a run: reports/gates.json."""

    verdicts: list[Verdict]
    notes: list[Note]

    def failed(self) -> list[Verdict]:
        """The verdicts that block a release."""
        return [verdict for verdict in self.verdicts if verdict.status == "fail"]


class Measurement(NamedTuple):
    """What is known of a model on a target; shares in 0..1, milliseconds, bytes.

    Attributes:
        backend: the engine; measurements of one backend are each other's parents by precision.
        reference_miou: PyTorch's mIoU of the same model; likewise its IoU by class.
        unstable: why the latency cannot be trusted; None when it can.
        speedup: times faster than the teacher on this target, from one run; None without a teacher there.
    """

    backend: str
    precision: Precision
    miou: float
    iou: Mapping[str, float | None]
    reference_miou: float
    reference_iou: Mapping[str, float | None]
    bytes: int
    p50_ms: float
    p99_ms: float | None
    unstable: str | None
    speedup: float | None


class _Bound(NamedTuple):
    """A gate's limit and how its numbers are written."""

    name: str
    limit: float | None
    side: Literal["at least", "at most"]
    unit: str
    digits: int


def _judge(bound: _Bound, key: Key, value: float | None, said: str) -> Verdict:
    """Hold `value` against a bound; `said` is the half sentence about the value, or why there is none."""
    name, limit, side, unit, digits = bound
    model, target = key
    if limit is None:
        status, detail = "not gated", f"{said}; no limit is set"
    elif value is None:
        status, detail = "not judged", said
    else:
        short = limit - value if side == "at least" else value - limit
        shown = f"{side} {limit:.{digits}f}{unit}"
        status = "fail" if short > 1e-9 else "pass"  # the rounding of a difference must not decide
        detail = f"{said}; {shown} is required"
        if status == "fail":
            detail += f", missed by {max(short, 10.0**-digits):.{digits}f}{unit}"
    return Verdict.model_validate(
        {
            "name": name,
            "model": model,
            "target": target,
            "value": None if value is None else round(value, 6),
            "limit": limit,
            "status": status,
            "detail": detail,
        }
    )


def _retention(key: Key, measured: Mapping[Key, Measurement], limits: GatesConfig, teacher: str) -> Verdict:
    bound = _Bound("min_retention", limits.min_retention, "at least", "", 3)
    base = measured.get((teacher, key[1]))
    if base is None or base.miou == 0:
        reason = "is not deployed there" if base is None else "scores 0 there"
        return _judge(bound, key, None, f"the teacher {reason}, nothing to hold the mIoU against")
    value = measured[key].miou / base.miou
    said = (
        f"keeps {value:.3f} of the teacher's mIoU ({100 * measured[key].miou:.2f} of {100 * base.miou:.2f})"
    )
    return _judge(bound, key, value, said)


def _gain(
    key: Key, measured: Mapping[Key, Measurement], limits: GatesConfig, controls: Mapping[str, str]
) -> Verdict:
    """A difference between two trainings, of which chance moves each: meant for presets of several seeds."""
    bound = _Bound("min_gain_over_alone", limits.min_gain_over_alone, "at least", " points", 2)
    control = controls.get(key[0])
    if control is None:
        return _judge(bound, key, None, "no student of the same seed trained alone to hold it against")
    if (control, key[1]) not in measured:
        return _judge(bound, key, None, f"{control} is not deployed on this target")
    value = 100 * (measured[key].miou - measured[control, key[1]].miou)
    return _judge(bound, key, value, f"{value:+.2f} points of mIoU over {control}")


def _drop(key: Key, own: Measurement, limits: GatesConfig) -> Verdict:
    bound = _Bound("max_drop", limits.max_drop.get(own.precision), "at most", " points", 2)
    value = 100 * (own.reference_miou - own.miou)
    return _judge(bound, key, value, f"{own.precision} loses {value:.2f} points of mIoU against PyTorch")


def _class_drop(key: Key, own: Measurement, limits: GatesConfig) -> Verdict:
    bound = _Bound("max_class_drop", limits.max_class_drop.get(own.precision), "at most", " points", 2)
    drops = {
        name: 100 * (before - after)
        for name, before in own.reference_iou.items()
        if before is not None and (after := own.iou.get(name)) is not None
    }
    if not drops:
        return _judge(bound, key, None, "no class has pixels in both scores")
    worst = max(drops, key=lambda name: drops[name])
    said = f"{own.precision} loses most on {worst}: {drops[worst]:.2f} points of IoU against PyTorch"
    return _judge(bound, key, drops[worst], said)


def _speedup(key: Key, measured: Mapping[Key, Measurement], limits: GatesConfig, teacher: str) -> Verdict:
    bound = _Bound("min_speedup_over_teacher", limits.min_speedup_over_teacher, "at least", "x", 2)
    own, base = measured[key], measured.get((teacher, key[1]))
    if key[0] == teacher:
        return _judge(bound, key, None, "it is the teacher")
    if own.speedup is None or base is None:
        return _judge(bound, key, None, "the teacher is not deployed on this target")
    for who, unstable in ((key[0], own.unstable), (teacher, base.unstable)):
        if unstable is not None:
            said = f"{own.speedup:.2f}x, but the latency of {who} is unstable: {unstable}"
            return _judge(bound, key, None, f"{said}; measure again in quiet")
    return _judge(bound, key, own.speedup, f"{own.speedup:.2f}x as fast as the teacher")


def _absolute(name: str, key: Key, own: Measurement, value: float | None, limit: float | None) -> Verdict:
    """An absolute latency limit: it was set for a known machine, so what cannot be shown to hold fails."""
    percentile = name.removeprefix("max_").removesuffix("_ms")
    bound = _Bound(name, limit, "at most", " ms", 3)
    if value is None:
        reason = f"{percentile} needs {MIN_SAMPLES[99]} calls; raise deploy.benchmark.rounds or iterations"
    elif own.unstable is not None:
        reason = f"{percentile} {value:.3f} ms is unstable ({own.unstable}); measure again in quiet"
    else:
        return _judge(bound, key, value, f"{percentile} {value:.3f} ms")
    verdict = _judge(bound, key, None, reason)
    if limit is None:
        return verdict
    return verdict.model_copy(update={"status": "fail", "value": value})


def judge(
    measured: Mapping[Key, Measurement],
    limits: GatesConfig,
    *,
    released: Iterable[str],
    targets: Sequence[str],
    teacher: str,
    controls: Mapping[str, str],
) -> Judgement:
    """Hold every released model on every target against every gate.

    Args:
        measured: (model, target) -> measurement, of released models, their controls and the teacher.
        limits: from params.
        released: the models to judge.
        targets: the targets to judge them on.
        teacher: the teacher's model id.
        controls: model -> the same student and seed trained alone.

    Raises:
        KeyError: a released model was not measured on a target.
    """
    verdicts: list[Verdict] = []
    for key in ((model, target) for model in released for target in targets):
        own, target = measured[key], key[1]
        megabytes = own.bytes / 1e6
        size = _Bound("max_size_mb", limits.max_size_mb, "at most", " MB", 2)
        verdicts += [
            _retention(key, measured, limits, teacher),
            _gain(key, measured, limits, controls),
            _drop(key, own, limits),
            _class_drop(key, own, limits),
            _speedup(key, measured, limits, teacher),
            _judge(size, key, megabytes, f"{megabytes:.2f} MB"),
            _absolute("max_p50_ms", key, own, own.p50_ms, limits.max_p50_ms.get(target)),
            _absolute("max_p99_ms", key, own, own.p99_ms, limits.max_p99_ms.get(target)),
        ]
    return Judgement(verdicts=verdicts, notes=not_worth_shipping(measured))


def not_worth_shipping(measured: Mapping[Key, Measurement]) -> list[Note]:
    """Narrow variants that are hardly faster than fp32 on the same backend, where both timings are stable."""
    notes: list[Note] = []
    for (model, target), own in measured.items():
        parents = [
            (name, other)
            for (of, name), other in measured.items()
            if of == model and other.backend == own.backend and other.precision == "fp32"
        ]
        if own.precision == "fp32" or not parents:
            continue
        name, parent = parents[0]
        if own.unstable is None and parent.unstable is None and own.p50_ms > WORTH * parent.p50_ms:
            ratio = parent.p50_ms / own.p50_ms
            detail = f"not worth shipping: {ratio:.2f}x the speed of {name}, less than {1 / WORTH:.2f}x"
            notes.append(Note(model=model, target=target, detail=detail))
    return notes
