"""What a release must meet: measurements and limits in, one verdict a gate out; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from deploy.config import Config, GatesConfig, Precision
from deploy.latency import MIN_SAMPLES
from deploy.remedies import remedy

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
        engine: backend and precision of the target, in words.
        status: "not judged" when the value is missing or a relative latency is unstable; only "fail" blocks.
        detail: the sentence a person reads; a failure says by how much, and what can be done.
    """

    name: str
    model: str
    target: str
    engine: str
    value: float | None
    limit: float | None
    status: Status
    detail: str

    def sentence(self) -> str:
        """Gate, model, target, engine, and all that is to say of them."""
        return f"{self.name} of {self.model} on {self.target} ({self.engine}): {self.detail}"


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
        device: where it was measured; with `backend` and `threads` it says whose float32 is whose parent.
        agreement: share of test pixels on which the engine names PyTorch's class; None where nobody looked.
        relative_error: largest error of a logit against PyTorch's on a few test images; likewise None.
        export_agreement: the same of the exported graph, before an engine was built from it.
        export_error: likewise its largest error of a logit.
        reference_miou: PyTorch's mIoU of the same model; likewise its IoU by class.
        unstable: why the latency cannot be trusted; None when it can.
        speedup: times faster than the teacher on this target, from one run; None without a teacher there.
    """

    device: str
    backend: str
    threads: int
    precision: Precision
    agreement: float | None
    relative_error: float | None
    export_agreement: float | None
    export_error: float | None
    miou: float
    iou: Mapping[str, float | None]
    reference_miou: float
    reference_iou: Mapping[str, float | None]
    bytes: int
    p50_ms: float
    p99_ms: float | None
    unstable: str | None
    speedup: float | None

    @property
    def engine(self) -> str:
        """Backend and precision in words."""
        return f"{self.backend} {self.precision}"


class _Case(NamedTuple):
    """A released model on a target, with what is known of it and of those it is compared with."""

    model: str
    target: str
    own: Measurement
    measured: Mapping[Key, Measurement]
    limits: GatesConfig


class _Bound(NamedTuple):
    """A gate's limit and how its numbers are written."""

    name: str
    limit: float | None
    side: Literal["at least", "at most"]
    unit: str
    form: str

    def missed(self, value: float) -> str | None:
        """By how much a value misses the limit; None if it meets it."""
        assert self.limit is not None
        short = self.limit - value if self.side == "at least" else value - self.limit
        if short <= 1e-9:  # the rounding of a difference must not decide
            return None
        least = 10.0 ** -int(self.form[1]) if self.form.endswith("f") else 0.0
        return f"{max(short, least):{self.form}}{self.unit}"

    def required(self) -> str:
        """The limit in words."""
        return f"{self.side} {self.limit:{self.form}}{self.unit} is required"


def _judge(bound: _Bound, case: _Case, value: float | None, said: str) -> Verdict:
    """Hold `value` against a bound; `said` is the half sentence about the value, or why there is none."""
    status, detail = "not judged", said
    if bound.limit is None:
        status, detail = "not gated", f"{said}; no limit is set"
    elif value is not None:
        missed = bound.missed(value)
        status, detail = "pass", f"{said}; {bound.required()}"
        if missed is not None:
            status = "fail"
            detail += f", missed by {missed}; {remedy(bound.name, case.own.precision)}"
    digits = 6 if bound.form.endswith("f") else 12
    return Verdict.model_validate(
        {
            "name": bound.name,
            "model": case.model,
            "target": case.target,
            "engine": case.own.engine,
            "value": None if value is None else round(value, digits),
            "limit": bound.limit,
            "status": status,
            "detail": detail,
        }
    )


def _retention(case: _Case, teacher: str) -> Verdict:
    bound = _Bound("min_retention", case.limits.min_retention, "at least", "", ".3f")
    base = case.measured.get((teacher, case.target))
    if base is None or base.miou == 0:
        reason = "is not deployed there" if base is None else "scores 0 there"
        return _judge(bound, case, None, f"the teacher {reason}, nothing to hold the mIoU against")
    value = case.own.miou / base.miou
    said = f"keeps {value:.3f} of the teacher's mIoU ({100 * case.own.miou:.2f} of {100 * base.miou:.2f})"
    return _judge(bound, case, value, said)


def _gain(case: _Case, controls: Mapping[str, str]) -> Verdict:
    """A difference between two trainings, of which chance moves each: meant for presets of several seeds."""
    bound = _Bound("min_gain_over_alone", case.limits.min_gain_over_alone, "at least", " points", ".2f")
    control = controls.get(case.model)
    if control is None:
        return _judge(bound, case, None, "no student of the same seed trained alone to hold it against")
    if (control, case.target) not in case.measured:
        return _judge(bound, case, None, f"{control} is not deployed on this target")
    value = 100 * (case.own.miou - case.measured[control, case.target].miou)
    return _judge(bound, case, value, f"{value:+.2f} points of mIoU over {control}")


def _shares(case: _Case) -> Iterator[Verdict]:
    """How near the exported graph, and then the engine, are to the network in PyTorch."""
    own, limits = case.own, case.limits
    graph, engine = "the exported graph", own.precision
    agreements = [
        ("export_min_agreement", limits.export_min_agreement, graph, own.export_agreement),
        ("min_agreement", limits.min_agreement.get(own.precision), engine, own.agreement),
    ]
    for name, limit, who, value in agreements:
        said = f"{who} was not held against PyTorch"
        if value is not None:
            said = f"{who} names PyTorch's class on {value:.5f} of the pixels"
        yield _judge(_Bound(name, limit, "at least", "", ".5f"), case, value, said)
    errors = [
        ("export_max_relative_error", limits.export_max_relative_error, graph, own.export_error),
        ("max_relative_error", limits.max_relative_error.get(own.precision), engine, own.relative_error),
    ]
    for name, limit, who, value in errors:
        said = f"the logits of {who} were not held against PyTorch's"
        if value is not None:
            said = f"a logit of {who} is off by {value:.1e} of PyTorch's largest"
        yield _judge(_Bound(name, limit, "at most", "", ".1e"), case, value, said)


def _drop(case: _Case) -> Verdict:
    own = case.own
    bound = _Bound("max_drop", case.limits.max_drop.get(own.precision), "at most", " points", ".2f")
    value = 100 * (own.reference_miou - own.miou)
    return _judge(bound, case, value, f"{own.precision} loses {value:.2f} points of mIoU against PyTorch")


def _class_drop(case: _Case) -> Verdict:
    own = case.own
    limit = case.limits.max_class_drop.get(own.precision)
    bound = _Bound("max_class_drop", limit, "at most", " points", ".2f")
    drops = {
        name: 100 * (before - after)
        for name, before in own.reference_iou.items()
        if before is not None and (after := own.iou.get(name)) is not None
    }
    if not drops:
        return _judge(bound, case, None, "no class has pixels in both scores")
    worst = max(drops, key=lambda name: drops[name])
    said = f"{own.precision} loses most on {worst}: {drops[worst]:.2f} points of IoU against PyTorch"
    return _judge(bound, case, drops[worst], said)


def _speedup(case: _Case, teacher: str) -> Verdict:
    limit = case.limits.min_speedup_over_teacher
    bound = _Bound("min_speedup_over_teacher", limit, "at least", "x", ".2f")
    own, base = case.own, case.measured.get((teacher, case.target))
    if case.model == teacher:
        return _judge(bound, case, None, "it is the teacher")
    if own.speedup is None or base is None:
        return _judge(bound, case, None, "the teacher is not deployed on this target")
    for who, unstable in ((case.model, own.unstable), (teacher, base.unstable)):
        if unstable is not None:
            said = f"{own.speedup:.2f}x, but the latency of {who} is unstable: {unstable}"
            return _judge(bound, case, None, f"{said}; measure again in quiet")
    return _judge(bound, case, own.speedup, f"{own.speedup:.2f}x as fast as the teacher")


def _size(case: _Case) -> Verdict:
    megabytes = case.own.bytes / 1e6
    bound = _Bound("max_size_mb", case.limits.max_size_mb, "at most", " MB", ".2f")
    return _judge(bound, case, megabytes, f"{megabytes:.2f} MB")


def _absolute(case: _Case, name: str, value: float | None, limit: float | None) -> Verdict:
    """An absolute latency limit: it was set for a known machine, so what cannot be shown to hold fails."""
    percentile = name.removeprefix("max_").removesuffix("_ms")
    bound = _Bound(name, limit, "at most", " ms", ".3f")
    if value is None:
        reason = f"{percentile} needs {MIN_SAMPLES[99]} calls; raise deploy.benchmark.rounds or iterations"
    elif case.own.unstable is not None:
        reason = f"{percentile} {value:.3f} ms is unstable ({case.own.unstable}); measure again in quiet"
    else:
        return _judge(bound, case, value, f"{percentile} {value:.3f} ms")
    verdict = _judge(bound, case, None, reason)
    if limit is None:
        return verdict
    detail = f"{reason}; {bound.required()}"
    return verdict.model_copy(update={"status": "fail", "value": value, "detail": detail})


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
    for model, target in ((model, target) for model in released for target in targets):
        own = measured[model, target]
        case = _Case(model, target, own, measured, limits)
        verdicts += [
            _retention(case, teacher),
            _gain(case, controls),
            *_shares(case),
            _drop(case),
            _class_drop(case),
            _speedup(case, teacher),
            _size(case),
            _absolute(case, "max_p50_ms", own.p50_ms, limits.max_p50_ms.get(target)),
            _absolute(case, "max_p99_ms", own.p99_ms, limits.max_p99_ms.get(target)),
        ]
    return Judgement(verdicts=verdicts, notes=not_worth_shipping(measured))


def not_worth_shipping(measured: Mapping[Key, Measurement]) -> list[Note]:
    """Narrow variants that are hardly faster than fp32, where both timings are stable.

    Their parent is the same model in fp32 on the same backend, device and number of threads: against any
    other, the ratio is of the machines.
    """
    notes: list[Note] = []
    for (model, target), own in measured.items():
        if own.precision == "fp32":
            continue
        place = (own.device, own.backend, own.threads)
        for (of, name), parent in measured.items():
            if of != model or parent.precision != "fp32":
                continue
            if (parent.device, parent.backend, parent.threads) != place:
                continue
            slow = own.p50_ms - WORTH * parent.p50_ms > 1e-9  # as above, not by the rounding
            if slow and own.unstable is None and parent.unstable is None:
                ratio = parent.p50_ms / own.p50_ms
                detail = f"not worth shipping: {ratio:.2f}x the speed of {name}, less than {1 / WORTH:.2f}x"
                notes.append(Note(model=model, target=target, detail=detail))
                break
    return notes
