from __future__ import annotations

import math

import numpy as np
import pytest
from little_net import LittleNet, contract_of, picture, pictures

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, Range
from deploy.export import Exported
from deploy.parity import KINDS, Case, Meter, Parity, compare, inputs, require, shapes, suite
from deploy.sessions import open_backend

RNG = np.random.default_rng(0)

NAMES = ("first", "second")


def _meter(reference: np.ndarray, other: np.ndarray) -> Parity:
    meter = Meter()
    meter.update_class_map(reference.argmax(axis=1), other.argmax(axis=1))
    meter.update_logits(reference.astype(np.float32), other.astype(np.float32))
    return meter.result(len(reference))


def test_equal_answers_have_no_error() -> None:
    logits = RNG.normal(size=(2, 3, 4, 5))
    assert _meter(logits, logits) == Parity(images=2, agreement=1.0, max_relative_error=0.0, sqnr_db=None)


def test_the_figures_follow_their_definitions() -> None:
    logits = np.zeros((1, 2, 1, 4))
    logits[0, 0], logits[0, 1] = 4.0, 2.0
    other = logits.copy()
    other[0, 1, 0, 0] = 5.0
    result = _meter(logits, other)
    assert result.agreement == 3 / 4
    assert result.max_relative_error == pytest.approx(3 / 4)
    assert result.sqnr_db == pytest.approx(10 * math.log10((4 * 16 + 4 * 4) / 9))


def test_parts_add_up_to_the_whole() -> None:
    first, second = RNG.normal(size=(2, 4, 3, 8, 8))
    whole = _meter(first, second)
    parts = Meter()
    for row, other in zip(first, second, strict=True):
        parts.update_class_map(row[None].argmax(axis=1), other[None].argmax(axis=1))
        parts.update_logits(row[None].astype(np.float32), other[None].astype(np.float32))
    assert parts.result(4).sqnr_db == pytest.approx(whole.sqnr_db)
    assert parts.result(4).agreement == whole.agreement


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    logits = RNG.normal(size=(1, 3, 4, 4))
    other = logits.copy()
    other[0, 0, 0, 0] = value
    for pair in ((logits, other), (other, logits)):
        with pytest.raises(UserError, match="not finite"):
            _meter(*pair)


@pytest.mark.parametrize(("agreement", "error"), [(0.5, 0.0), (1.0, 0.1)])
def test_a_miss_is_refused_with_its_numbers(agreement: float, error: float) -> None:
    missed = Parity(images=8, agreement=agreement, max_relative_error=error, sqnr_db=1.0)
    said = {
        0.5: "first is missed by agreement 0.500000 (at least 0.999)",
        1.0: "second is missed by largest relative error 1.00e-01 (at most 1.0e-04)",
    }[agreement]
    name = said.split()[0]
    with pytest.raises(UserError) as caught:
        require(missed, model="m", min_agreement=0.999, max_relative_error=1e-4, names=NAMES)
    assert str(caught.value) == (
        "m: the exported graph in onnxruntime fp32 differs from PyTorch on 8 images: "
        f"{said}; look for an operator that the exporter changed, or accept it by {name}"
    )
    require(missed, model="m", min_agreement=agreement, max_relative_error=error, names=NAMES)
    require(missed, model="m", min_agreement=None, max_relative_error=None, names=NAMES)


def test_both_limits_are_named_where_both_are_missed() -> None:
    missed = Parity(images=8, agreement=0.5, max_relative_error=0.1, sqnr_db=1.0)
    with pytest.raises(UserError, match=r"first is .*; second is .* accept it by first and second$"):
        require(missed, model="m", min_agreement=0.999, max_relative_error=1e-4, names=NAMES)


def test_no_images_is_refused(exported: Exported) -> None:
    read = exported.files.__getitem__
    with open_backend("onnxruntime", exported.contract, read, threads=1) as session:
        with pytest.raises(UserError, match="at least one image"):
            compare(session, session, pictures(range(1))[:0])


@pytest.mark.xdist_group("little")
def test_onnxruntime_computes_what_pytorch_does_and_another_network_does_not(exported: Exported) -> None:
    images = pictures(range(5))
    contract = exported.contract
    with (
        open_backend("pytorch", contract, exported.files.__getitem__, threads=1) as reference,
        open_backend("onnxruntime", contract, exported.files.__getitem__, threads=1) as engine,
    ):
        good = compare(reference, engine, images)
    require(good, model="little", min_agreement=0.9999, max_relative_error=1e-4, names=NAMES)
    assert good.images == 5 and good.sqnr_db is not None and good.sqnr_db > 80


def test_shapes_of_a_fixed_graph_are_batches() -> None:
    contract = contract_of(LittleNet())
    assert shapes(contract) == [(batch, 32, 64) for batch in (1, 2, 3, 4, 5)]
    few = contract_of(LittleNet(), batch=Range(min=2, max=3))
    assert shapes(few) == [(2, 32, 64), (3, 32, 64)]


def test_shapes_of_a_dynamic_graph_are_sizes_inside_its_limits_and_odd() -> None:
    free = contract_of(LittleNet(), height=Range(min=8, max=512), width=Range(min=16, max=70, multiple=2))
    found = shapes(free)
    assert len(found) == 5 and (2, 32, 64) in found
    assert sum(height % 2 for _, height, _ in found) >= 3
    for batch, height, width in found:
        free.admit(np.zeros((batch, height, width, 3), dtype=np.uint8))
    stepped = contract_of(LittleNet(), height=Range(min=16, max=64, multiple=8))
    for batch, height, width in shapes(stepped):
        stepped.admit(np.zeros((batch, height, width, 3), dtype=np.uint8))


def test_inputs_are_of_their_kind_and_the_same_again() -> None:
    contract = contract_of(LittleNet())
    images = list(pictures(range(3)))
    for kind in KINDS:
        made = inputs(kind, (4, 32, 64), images, contract)
        assert made.dtype == np.uint8 and made.shape == (4, 32, 64, 3)
        assert np.array_equal(made, inputs(kind, (4, 32, 64), images, contract))
        assert len({image.tobytes() for image in made}) == (3 if kind == "real" else 4)
    extremes = inputs("extremes", (4, 32, 64), images, contract)
    assert set(np.unique(extremes)) == {0, 255}
    with pytest.raises(UserError, match="at least one image"):
        inputs("real", (1, 32, 64), [], contract)


@pytest.mark.xdist_group("little")
def test_the_suite_compares_every_shape_with_every_kind(dynamic: Exported) -> None:
    read = dynamic.files.__getitem__
    with (
        open_backend("pytorch", dynamic.contract, read, threads=1) as reference,
        open_backend("onnxruntime", dynamic.contract, read, threads=1) as engine,
    ):
        found = suite(reference, engine, [picture(number).image for number in range(3)])
    wanted = {(kind, shape) for kind in KINDS for shape in shapes(dynamic.contract)}
    assert {(case.kind, case.shape) for case in found.cases} == wanted and len(found.cases) == 15
    require(found, model="pyramid", min_agreement=0.9999, max_relative_error=1e-4, names=NAMES)
    assert found.images == sum(case.shape[0] for case in found.cases)
    assert found.max_relative_error == max(case.max_relative_error for case in found.cases)


def test_a_fault_at_one_shape_or_kind_is_not_averaged_away() -> None:
    good = {"agreement": 1.0, "max_relative_error": 1e-7, "sqnr_db": 130.0}
    bad = Case(kind="extremes", shape=(1, 33, 65), agreement=0.6, max_relative_error=0.3, sqnr_db=9.0)
    cases = [Case(kind="real", shape=(2, 32, 64), **good), bad]
    parity = Parity(images=3, agreement=0.6, max_relative_error=0.3, sqnr_db=20.0, cases=cases)
    asked = []

    def explain(case: Case | None) -> str:
        asked.append(case)
        return "the first tensor that differs is 'conv'"

    with pytest.raises(UserError, match=r"most at 1x33x65 of extremes input: .*; the first tensor that"):
        require(parity, model="m", min_agreement=0.9, max_relative_error=1e-4, names=NAMES, explain=explain)
    assert asked == [bad]
    require(parity, model="m", min_agreement=0.5, max_relative_error=0.5, names=NAMES, explain=explain)
    assert asked == [bad]


@pytest.mark.xdist_group("little")
def test_int8_is_seen_as_different(exported: Exported, int8: object) -> None:
    files = {**exported.files, CLASS_MAP: int8.files[CLASS_MAP]}  # type: ignore[attr-defined]
    with (
        open_backend("onnxruntime", exported.contract, exported.files.__getitem__, threads=1) as reference,
        open_backend("onnxruntime", exported.contract, files.__getitem__, threads=1) as engine,
    ):
        result = compare(reference, engine, pictures(range(3)))
    assert result.agreement < 1.0 and result.max_relative_error == 0.0
