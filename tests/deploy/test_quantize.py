from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from little_net import picture, pictures
from onnx import numpy_helper

from afdcd.errors import UserError
from afdcd.metrics import ConfusionMatrix, agreement
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM
from deploy.config import KeepFloat, QuantizeConfig, TargetConfig
from deploy.export import Exported
from deploy.hardware import int8_sums_saturate
from deploy.judge import Cost
from deploy.parity import compare
from deploy.precision import variant
from deploy.presets import require_preset
from deploy.quantisation import Candidate, Quantisation
from deploy.quantize import Typed, _best, narrowed, quantize, unchanged
from deploy.sessions import open_backend
from deploy.sessions.capability import GPU_PRECISIONS, PRECISIONS

pytestmark = pytest.mark.xdist_group("little")


BITS = {"weight_bits": [8]}


def _settings(*candidates: str) -> QuantizeConfig:
    values: dict[str, Any] = {"calibration_images": 8, "val_images": 6, "percentile": 99.99}
    return QuantizeConfig.model_validate(
        values | {"candidates": list(candidates), "keep_float": None, "weight_bits": [8]}
    )


def _quantize(exported: Exported, **changes: Any) -> Typed:
    given: dict[str, Any] = {
        "calibration": pictures(range(8)),
        "validation": [picture(number) for number in range(100, 106)],
        "settings": _settings("minmax"),
        "threads": 1,
    }
    return quantize(exported.files, exported.contract, **(given | changes))


def test_it_still_answers_like_the_float_graph_and_is_smaller(exported: Exported, int8: Typed) -> None:
    images = pictures(range(300, 308))
    maps = []
    for files in (exported.files, int8.files):
        with open_backend("onnxruntime", exported.contract, files.__getitem__, threads=1) as session:
            maps.append(session.infer(images))
    assert 0.9 < agreement(*maps) < 1.0
    for name in (CLASS_MAP, LOGITS):
        # A network of 6,000 weights: quantisation parameters weigh as much as what they save elsewhere.
        weights = [
            sum(
                numpy_helper.to_array(tensor).nbytes
                for tensor in onnx.load_from_string(files[name]).graph.initializer
                if len(tensor.dims) == 4
            )
            for files in (exported.files, int8.files)
        ]
        assert weights[1] < 0.3 * weights[0]


def test_the_twins_have_the_same_scales(exported: Exported, int8: Typed) -> None:
    scales = [
        {
            tensor.name: numpy_helper.to_array(tensor).tobytes()
            for tensor in onnx.load_from_string(int8.files[name]).graph.initializer
        }
        for name in (CLASS_MAP, LOGITS)
    ]
    shared = scales[0].keys() & scales[1].keys()
    assert len(shared) > 20 and all(scales[0][name] == scales[1][name] for name in shared)
    images = pictures(range(4))
    with open_backend("onnxruntime", exported.contract, int8.files.__getitem__, threads=1) as session:
        np.testing.assert_array_equal(session.infer(images), session.logits(images).argmax(axis=1))


def test_the_record_holds_what_the_files_score(exported: Exported, int8: Typed) -> None:
    record = int8.record
    assert [candidate.name for candidate in record.candidates] == ["minmax", "percentile"]
    chosen = next(candidate for candidate in record.candidates if candidate.name == record.chosen)
    confusion = ConfusionMatrix(3)
    with open_backend("onnxruntime", exported.contract, int8.files.__getitem__, threads=1) as session:
        for number in range(100, 106):
            sample = picture(number)
            confusion.update(session.infer(sample.image[None])[0], sample.labels)
    assert chosen.miou == pytest.approx(confusion.miou(), abs=1e-12)
    assert chosen.agreement > 0.9 and chosen.sqnr_db is not None and chosen.sqnr_db > 15
    assert record.float_miou == pytest.approx(chosen.miou, abs=0.05)
    assert (record.val_images, record.calibration_images) == (6, 8)
    assert record.calibration_sha256 == hashlib.sha256(pictures(range(8)).tobytes()).hexdigest()
    assert Quantisation.model_validate_json(record.model_dump_json()) == record


def test_the_candidate_that_is_best_on_val_is_kept(
    exported: Exported, int8: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A percentile of 60 cuts most of each range off: whatever its place in the list, it must lose."""
    bad = _settings("percentile", "minmax").model_copy(update={"percentile": 60.0})
    result = _quantize(exported, settings=bad)
    assert result.record.chosen == "minmax"
    cut, whole = result.record.candidates
    assert cut.agreement < whole.agreement


def test_calibration_decides_the_scales(exported: Exported, int8: Typed) -> None:
    dark = _quantize(exported, calibration=pictures(range(8)) // 4)
    assert dark.files != _quantize(exported).files


@pytest.mark.slow
def test_entropy_uses_more_bins_than_levels(exported: Exported) -> None:
    """With the tool's own 128 bins it would be MinMax (DEPLOY finding 9)."""
    result = _quantize(exported, settings=_settings("minmax", "entropy"), calibration=pictures(range(3)))
    minmax, entropy = result.record.candidates
    assert entropy.sqnr_db != minmax.sqnr_db


@pytest.mark.parametrize(
    "missing",
    [
        {"calibration": pictures(range(1))[:0]},
        {"validation": []},
    ],
)
def test_without_images_it_is_refused(exported: Exported, missing: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="INT8 needs calibration images"):
        _quantize(exported, **missing)


def test_the_same_images_give_the_same_bytes_in_every_process(exported: Exported, tmp_path: Any) -> None:
    for name in (CLASS_MAP, LOGITS):
        (tmp_path / name).write_bytes(exported.files[name])
    (tmp_path / "contract.json").write_text(exported.contract.model_dump_json())
    np.save(tmp_path / "images.npy", pictures(range(3)))
    code = """
import sys, hashlib, pathlib, numpy as np
from deploy.bundle import read_contract
from deploy.config import QuantizeConfig
from deploy.evaluate import Sample
from deploy.quantize import quantize
folder = pathlib.Path(sys.argv[1])
images = np.load(folder / "images.npy")
settings = QuantizeConfig(
    calibration_images=3, val_images=1, candidates=["minmax"], percentile=99.9,
    keep_float=None, weight_bits=[8]
)
files = {name: (folder / name).read_bytes() for name in ("class_map.onnx", "logits.onnx")}
sample = Sample("a", images[0], np.zeros((32, 64), np.uint8))
made = quantize(
    files, read_contract(folder), calibration=images, validation=[sample], settings=settings, threads=1
)
assert "torch" not in sys.modules
print({name: hashlib.sha256(content).hexdigest() for name, content in made.files.items()})
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_float_targets_get_the_exported_bytes(exported: Exported) -> None:
    assert unchanged(exported.files, "onnxruntime").files == {
        name: exported.files[name] for name in (CLASS_MAP, LOGITS)
    }
    assert unchanged(exported.files, "pytorch").files == {PROGRAM: exported.files[PROGRAM]}


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp16"), ("openvino", "fp16")])
def test_a_precision_without_a_way_is_refused(backend: str, precision: str) -> None:
    spec = TargetConfig.model_validate(
        {"backend": backend, "precision": precision, "where": "here", "threads": 1}
    )
    with pytest.raises(UserError, match=rf"target mine: no way leads to {precision} for {backend}"):
        require_preset("mine", spec)


def test_every_precision_that_a_backend_runs_has_a_way() -> None:
    for backend, possible in {**PRECISIONS, **GPU_PRECISIONS}.items():
        for precision in possible:
            spec = {"backend": backend, "precision": precision, "where": "here", "threads": 1}
            require_preset("mine", TargetConfig.model_validate(spec), _settings("minmax", "percentile"))


OPENVINO = TargetConfig(backend="openvino", precision="int8", where="here", threads=1)


def test_openvino_without_its_quantiser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.presets.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="target mine: INT8 for openvino is made by the package nncf, which is"
    ):
        require_preset("mine", OPENVINO)


def test_a_calibration_that_the_quantiser_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="target mine: nncf has no entropy calibration; take minmax"):
        require_preset("mine", OPENVINO, _settings("minmax", "entropy"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_narrow_targets_get_typed_graphs(exported: Exported, precision: Any) -> None:
    typed = narrowed(exported.files, "tensorrt", precision)
    assert typed.files == variant(exported.files, precision)
    assert (typed.record.preset, typed.record.precision, typed.record.chosen) == ("typed", precision, None)


@pytest.mark.parametrize("backend", ["tensorrt", "openvino"])
def test_int8_for_other_engines(exported: Exported, quantised: Any, backend: str) -> None:
    made: Typed = quantised(backend)
    runs = "openvino" if backend == "openvino" else "onnxruntime"
    assert made.record.judged_on == runs
    assert made.record.preset == ("nncf_mixed" if backend == "openvino" else "s8s8_symmetric")
    images = pictures(range(300, 304))
    with (
        open_backend(runs, exported.contract, made.files.__getitem__, threads=1, precision="int8") as session,
        open_backend("onnxruntime", exported.contract, exported.files.__getitem__, threads=1) as reference,
    ):
        found = compare(reference, session, images)
        np.testing.assert_array_equal(session.infer(images), session.logits(images).argmax(axis=1))
    assert 0.97 < found.agreement <= 1.0
    assert found.sqnr_db is not None and 25 < found.sqnr_db < 70


def _spoiled(exported: Exported) -> dict[str, bytes]:
    """The network with one channel of its stem and skip 3000 times as large, which its readers make up for.

    In float nothing changes; in INT8 the other channels lose all their steps.
    """
    readers, first = ("network.body.0", "network.tail.0", "network.classifier"), (slice(None), 0)
    files = {}
    for name in (CLASS_MAP, LOGITS):
        model = onnx.load_from_string(exported.files[name])
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor).copy()
            layer, _, kind = tensor.name.rpartition(".")
            if layer in readers and kind == "weight":
                values[first] /= 3000
            if layer in ("network.stem.0", "network.body.0") and kind in ("weight", "weight_bias"):
                values[0] *= 3000
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        files[name] = model.SerializeToString()
    return files


def test_sensitive_layers_stay_in_float_where_that_gains_on_val(exported: Exported) -> None:
    settings = _settings("minmax").model_copy(update={"keep_float": KeepFloat(layers=3, macs=1.0)})
    result = quantize(
        _spoiled(exported),
        exported.contract,
        calibration=pictures(range(4)),
        validation=[picture(number) for number in range(100, 106)],
        settings=settings,
        threads=1,
        backend="tensorrt",
    )
    record = result.record
    whole, part = record.candidates
    assert (whole.name, part.name, record.chosen) == ("minmax", "minmax, 3 in float", "minmax, 3 in float")
    assert part.miou > whole.miou + 0.1 and part.agreement > whole.agreement + 0.1
    assert record.kept == part.kept == [layer.name for layer in record.layers[:3]] and whole.kept == []
    model = onnx.load_from_string(result.files[CLASS_MAP])
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert (makers.get(node.input[1]) == "DequantizeLinear") == (node.name not in record.kept)


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        # (mIoU, agreement, layers in float); the float graph has 0.5.
        ([(0.52, 0.95, 0), (0.5, 0.97, 0)], 1),  # more than float is chance
        ([(0.46, 0.99, 0), (0.5, 0.97, 0)], 1),  # mIoU goes first
        ([(0.4996, 0.97, 0), (0.5, 0.96, 0)], 0),  # less than a tenth of a point is no loss
        ([(0.5, 0.9701, 2), (0.5, 0.9703, 0)], 1),  # nor is it a gain that layers in float are worth
        ([(0.5, 0.99, 2), (0.5, 0.97, 0)], 0),  # this is one
        ([(0.49949, 0.97, 0), (0.49951, 0.97, 2)], 0),  # wherever the tenths begin
        ([(0.5, 0.97051, 2), (0.5, 0.97049, 0)], 1),
        ([(0.4988, 0.98, 0), (0.5, 0.96, 0)], 1),  # more than a tenth decides
        ([(0.5, 0.9712, 2), (0.5, 0.97, 0)], 0),
        ([(0.4991, 0.98, 0), (0.5, 0.96, 0), (0.498, 0.99, 0)], 0),  # equals of the best, not of each other
        ([(0.4, 0.9, 2), (0.4, 0.9, 1)], 1),
    ],
)
def test_what_makes_a_candidate_the_best(candidates: list[tuple[float, float, int]], best: int) -> None:
    made = [
        Candidate(name="", kept=["a", "b"][:kept], miou=miou, agreement=agreement, sqnr_db=30.0)
        for miou, agreement, kept in candidates
    ]
    assert made.index(_best(made, 0.5)) == best


def test_layers_that_gain_nothing_are_quantised(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.quantize.Judge.__call__", lambda *given: Cost(0.5, 0.97, 30.0))
    settings = _settings("minmax").model_copy(update={"keep_float": KeepFloat(layers=1, macs=0.4)})
    record = _quantize(exported, settings=settings).record
    assert [len(candidate.kept) for candidate in record.candidates] == [0, 1]
    assert (record.chosen, record.kept) == ("minmax", []) and len(record.layers) == 4
    assert Quantisation.model_validate_json(record.model_dump_json()) == record


def test_seven_bits_are_tried_where_sums_saturate(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    for saturates, names in ((True, ["minmax", "minmax, 7-bit weights"]), (False, ["minmax"])):
        monkeypatch.setattr("deploy.hardware.int8_sums_saturate", lambda answer=saturates: answer)
        settings = _settings("minmax").model_copy(update={"weight_bits": "auto"})
        record = _quantize(exported, settings=settings).record
        assert [candidate.name for candidate in record.candidates] == names
    narrow = _quantize(exported, settings=_settings("minmax").model_copy(update={"weight_bits": [7]}))
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(narrow.files[CLASS_MAP]).graph.initializer
        if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.INT8
    ]
    assert len(weights) == 4 and max(np.abs(values).max() for values in weights) <= 64


@pytest.mark.skipif(not int8_sums_saturate(), reason="this CPU adds up products of bytes in 32 bits")
def test_seven_bits_lose_less_where_sums_saturate(exported: Exported) -> None:
    settings = _settings("minmax").model_copy(update={"weight_bits": "auto"})
    eight, seven = _quantize(exported, settings=settings).record.candidates
    assert eight.sqnr_db is not None and seven.sqnr_db is not None
    assert seven.sqnr_db > eight.sqnr_db + 5 and seven.agreement > eight.agreement
