from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from fake_run import CLASSES, SIZE, write_engine
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from afdcd.errors import UserError
from deploy.__main__ import main
from deploy.bundle import CLASS_MAP, MANIFEST, Manifest, Range, describe, read_manifest, write_model
from deploy.serving.triton import OPEN_BATCH, Service, config

SERVICE = Service(instances=2, queue_delay_us=500, queue_size=16, keep=1)
PLAN, XML, BIN = "class_map.plan", "class_map.xml", "class_map.bin"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    return tmp_path / "bundle"


def parsed(text: str) -> Any:
    """The text as Triton's own message; a field that it does not know is an error."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def changed(bundle: Path, files: tuple[str, ...] = (), **update: object) -> Manifest:
    """The bundle turned into one of another backend, with the files that it would hold."""
    for name in files:
        (bundle / name).write_bytes(b"content of " + name.encode())
    old = read_manifest(bundle)
    records = old.files | describe(bundle, files)
    new = Manifest.model_validate(old.model_dump() | {"files": records} | update)
    write_model(bundle / MANIFEST, new)
    return new


def with_input(manifest: Manifest, **sides: Any) -> Manifest:
    given = manifest.contract.input.model_copy(update=sides)
    return manifest.model_copy(update={"contract": manifest.contract.model_copy(update={"input": given})})


def test_a_cpu_model_has_instances_and_no_batcher(bundle: Path) -> None:
    text = config("street", read_manifest(bundle), SERVICE)
    message = parsed(text)
    assert (message.name, message.platform, message.backend) == ("street", "onnxruntime_onnx", "onnxruntime")
    assert message.max_batch_size == OPEN_BATCH and list(message.input[0].dims) == [*SIZE, 3]
    assert list(message.output[0].dims) == list(SIZE) and message.output[0].label_filename == "labels.txt"
    assert message.input[0].data_type == message.output[0].data_type == model_config_pb2.TYPE_UINT8
    assert not message.HasField("dynamic_batching") and "on a CPU an image costs more in a batch" in text
    assert message.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert message.instance_group[0].count == 2
    assert message.parameters["intra_op_thread_count"].string_value == "1"
    assert message.version_policy.latest.num_versions == 1
    warmup = message.model_warmup[0].inputs["images"]
    assert list(warmup.dims) == [*SIZE, 3] and warmup.random_data


@pytest.mark.parametrize("backend", ["onnxruntime_cuda", "onnxruntime_tensorrt", "tensorrt"])
def test_a_gpu_model_batches_and_refuses_beyond_its_queue(bundle: Path, backend: str) -> None:
    message = parsed(config("street", changed(bundle, backend=backend, precision="fp16"), SERVICE))
    assert message.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert message.dynamic_batching.max_queue_delay_microseconds == 500
    assert message.dynamic_batching.default_queue_policy.max_queue_size == 16
    assert message.platform == ("tensorrt_plan" if backend == "tensorrt" else "onnxruntime_onnx")
    accelerators = message.optimization.execution_accelerators.gpu_execution_accelerator
    modes = [dict(one.parameters) for one in accelerators]
    assert modes == ([{"precision_mode": "FP16"}] if backend == "onnxruntime_tensorrt" else [])


def test_fixed_and_free_sizes(bundle: Path) -> None:
    manifest = changed(bundle, backend="onnxruntime_cuda")
    free = Range(min=32, max=None)
    message = parsed(config("m", with_input(manifest, height=free, width=free), SERVICE))
    assert list(message.input[0].dims) == [-1, -1, 3] and list(message.output[0].dims) == [-1, -1]
    assert list(message.model_warmup[0].inputs["images"].dims) == [*SIZE, 3]
    for batch, first in ((Range(min=1, max=1), 1), (Range(min=4, max=4), 4), (Range(min=2, max=8), -1)):
        message = parsed(config("m", with_input(manifest, batch=batch), SERVICE))
        assert message.max_batch_size == 0 and not message.HasField("dynamic_batching")
        assert list(message.input[0].dims) == [first, *SIZE, 3]
        assert list(message.output[0].dims) == [first, *SIZE]
        assert list(message.model_warmup[0].inputs["images"].dims) == [batch.min, *SIZE, 3]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_reads_a_graph_or_its_own_format(bundle: Path, precision: str) -> None:
    files = (XML, BIN) if precision == "int8" else ()
    text = config("m", changed(bundle, files, backend="openvino", precision=precision), SERVICE)
    message = parsed(text)
    assert message.default_model_filename == ("model.xml" if files else "model.onnx")
    assert message.max_batch_size == 0 and list(message.input[0].dims) == [-1, *SIZE, 3]
    assert ("HINT_BF16" in message.parameters) == (precision == "bf16")
    assert ("cannot be told to stay in float32" in text) == (precision != "bf16")


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "pytorch", "pytorch_compiled", "onnxruntime_tensorrt"])
def test_what_triton_cannot_serve_is_refused(bundle: Path, tmp_path: Path, backend: str) -> None:
    changed(bundle, backend=backend, precision="bf16")
    with pytest.raises(SystemExit):
        main(["triton-repo", str(bundle), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"cannot serve painter .* with Triton: .*; release a"):
        config("m", read_manifest(bundle), SERVICE)


def test_a_repository_of_two_models_and_two_versions(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_engine(tmp_path / "newer", "painter", highest=2)
    write_engine(tmp_path / "plan", "painter", highest=2)
    changed(tmp_path / "plan", (PLAN,), backend="tensorrt", precision="fp16", versions={"tensorrt": "11.4"})
    out = tmp_path / "fleet"
    given = [f"street={bundle}", f"street={tmp_path / 'newer'}", f"fast={tmp_path / 'plan'}"]
    main(["triton-repo", *given, "--out", str(out), "--keep", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(one["model"], one["version"], one["device"]) for one in found["models"]] == [
        ("street", 1, "CPU"),
        ("street", 2, "CPU"),
        ("fast", 1, "GPU"),
    ]
    assert "under TensorRT 11.4" in found["models"][2]["notes"][0]
    for name in ("street", "fast"):
        message = parsed((out / "models" / name / "config.pbtxt").read_text())
        assert message.name == name and message.version_policy.latest.num_versions == 2
        assert (out / "models" / name / "labels.txt").read_text().split() == list(CLASSES)
    assert (out / "models/street/2/model.onnx").read_bytes() == (tmp_path / "newer" / CLASS_MAP).read_bytes()
    assert (out / "models/fast/1/model.plan").read_bytes() == b"content of class_map.plan"
    assert read_manifest(out / "models/street/1") == read_manifest(bundle)
    service = yaml.safe_load((out / "inferenceservice.yaml").read_text())
    predictor = service["spec"]["predictor"]
    assert service["kind"] == "InferenceService" and predictor["model"]["modelFormat"]["name"] == "triton"
    assert predictor["model"]["resources"]["limits"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (1, 4, 8)
    main(["triton-repo", str(bundle), "--out", str(out)])
    assert [folder.name for folder in (out / "models").iterdir()] == ["painter"]


def test_shapes_and_names_are_those_of_the_graph(bundle: Path) -> None:
    message = parsed(config("m", read_manifest(bundle), SERVICE))
    graph = onnx.load(bundle / CLASS_MAP).graph
    for told, tensors in ((message.input, graph.input), (message.output, graph.output)):
        assert [one.name for one in told] == [one.name for one in tensors]
        sides = [[side.dim_value for side in one.type.tensor_type.shape.dim[1:]] for one in tensors]
        assert np.array_equal([list(one.dims) for one in told], sides)


def test_refusals_leave_what_stood_there(bundle: Path, tmp_path: Path) -> None:
    write_engine(tmp_path / "other", "painter", highest=1)
    out = tmp_path / "fleet"
    first = [str(bundle), "--out", str(out)]
    main(["triton-repo", *first])
    before = (out / "models/painter/config.pbtxt").read_bytes()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("precious")
    cpu, cuda = f"m={bundle}", f"m={tmp_path / 'other'}"
    changed(tmp_path / "other", backend="onnxruntime_cuda")
    for arguments in (
        [str(bundle), str(tmp_path / "other"), "--out", str(out)],
        [cpu, cuda, "--out", str(out)],
        [f"../m={bundle}", "--out", str(out)],
        [*first, "--replicas", "3", "2"],
        [str(bundle), "--out", str(home)],
        [str(tmp_path / "nowhere"), "--out", str(out)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["triton-repo", *arguments])
        assert ended.value.code == 1
    (bundle / CLASS_MAP).write_bytes(b"altered")
    with pytest.raises(SystemExit):
        main(["triton-repo", *first])
    assert (out / "models/painter/config.pbtxt").read_bytes() == before
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.glob(".*"))
