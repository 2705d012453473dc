"""The config.pbtxt of a bundle for NVIDIA Triton: what it serves with, shapes, batching, instances, warm-up.

Field names are those of Triton's own protobuf message ModelConfig; the tests parse the text with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, Contract, Manifest, Range, ir_names, plan_name
from deploy.config import Config, Count

LABELS = "labels.txt"
OPEN_BATCH = 8
"""Images a call at most where the contract leaves the number open."""

TENSORRT_MODES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
"""What Triton calls the precisions that ONNX Runtime's TensorRT provider is given leave for."""

Message = dict[str, Any]
"""Field -> number, truth, text, `Name` of an enumeration, message, or a list of one of them."""


class Name(str):
    """A value of an enumeration, written without quotes."""


class Service(Config):
    """How Triton schedules a model.

    Attributes:
        instances: copies that run at the same time.
        queue_delay_us: microseconds that a request may wait for others to make a batch (GPU).
        queue_size: requests that may wait; those beyond are refused (GPU).
        keep: newest versions that are served side by side.
    """

    instances: Count
    queue_delay_us: Count
    queue_size: Count
    keep: Count


class Served(NamedTuple):
    """Triton's side of a backend of this project."""

    gpu: bool
    files: dict[str, str]
    """File of the bundle -> its name in a version's folder."""
    fields: Message
    notes: tuple[str, ...] = ()
    """What a reader must know; written as comments and told by the command."""


def served(manifest: Manifest) -> Served:
    """What Triton needs to run a bundle.

    Raises:
        UserError: Triton has nothing that runs this backend or precision.
    """
    backend, precision = manifest.backend, manifest.precision
    if backend in ("onnxruntime", "onnxruntime_cuda", "onnxruntime_tensorrt"):
        return _onnxruntime(manifest)
    if backend == "openvino":
        return _openvino(manifest)
    if backend == "tensorrt":
        built = manifest.versions.get("tensorrt", "an unknown version")
        fields = {"platform": "tensorrt_plan", "backend": "tensorrt"}
        note = f"The plan runs only on a GPU like the one it was built on and under TensorRT {built}."
        return Served(True, {plan_name(CLASS_MAP): "model.plan"}, fields, (note,))
    reasons = {
        "tensorrt_rtx": "Triton has no backend for TensorRT-RTX plans; release a tensorrt target",
        "pytorch": "the PyTorch program is a reference, not shipped; release an ONNX or TensorRT target",
        "pytorch_compiled": "compiled PyTorch is not shipped; release an ONNX or TensorRT target",
    }
    reason = reasons.get(backend, f"Triton has no backend for {backend}")
    raise UserError(f"cannot serve {manifest.model} ({manifest.target}, {precision}) with Triton: {reason}")


def config(name: str, manifest: Manifest, service: Service) -> str:
    """The text of config.pbtxt.

    Raises:
        UserError: Triton has nothing that runs this backend or precision.
    """
    how = served(manifest)
    contract = manifest.contract
    most = _max_batch(contract)
    if manifest.backend == "openvino":
        most = 0  # its backend refuses batches below max_batch_size
    message: Message = {
        "name": name,
        **how.fields,
        "max_batch_size": most,
        "input": [_tensor(contract.input.name, most, _shape(contract))],
        "output": [
            {**_tensor(contract.output.name, most, _shape(contract)[:3]), "label_filename": LABELS},
        ],
        "version_policy": {"latest": {"num_versions": service.keep}},
        "instance_group": [
            {"kind": Name("KIND_GPU" if how.gpu else "KIND_CPU"), "count": service.instances},
        ],
        "model_warmup": [_warmup(contract, most)],
    }
    notes = list(how.notes)
    if how.gpu and most > 1:
        message["dynamic_batching"] = {
            "max_queue_delay_microseconds": service.queue_delay_us,
            "default_queue_policy": {"max_queue_size": service.queue_size},
        }
    elif not how.gpu:
        notes.append(
            "No dynamic batching: on a CPU an image costs more in a batch than alone; "
            "instances run side by side instead."
        )
    return "".join(f"# {note}\n" for note in notes) + _text(message)


def _onnxruntime(manifest: Manifest) -> Served:
    fields: Message = {"platform": "onnxruntime_onnx", "backend": "onnxruntime"}
    files = {CLASS_MAP: "model.onnx"}
    if manifest.backend == "onnxruntime":
        threads = {"intra_op_thread_count": manifest.threads, "inter_op_thread_count": 1}
        return Served(False, files, {**fields, **_parameters(threads)})
    if manifest.backend == "onnxruntime_cuda":
        note = "Set NVIDIA_TF32_OVERRIDE=0 for the server: float32 was evaluated without TensorFloat-32."
        return Served(True, files, fields, (note,) if manifest.precision == "fp32" else ())
    if manifest.precision not in TENSORRT_MODES:
        raise UserError(
            f"cannot serve {manifest.model} ({manifest.target}) with Triton: its TensorRT accelerator of "
            f"ONNX Runtime knows {', '.join(TENSORRT_MODES)}, not {manifest.precision}; "
            "release a tensorrt target"
        )
    mode = {"key": "precision_mode", "value": TENSORRT_MODES[manifest.precision]}
    accelerator = {"name": "tensorrt", "parameters": [mode]}
    fields["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    return Served(True, files, fields)


def _openvino(manifest: Manifest) -> Served:
    graph, weights = ir_names(CLASS_MAP)
    if graph in manifest.files:
        files, main = {graph: "model.xml", weights: "model.bin"}, "model.xml"
    else:
        files, main = {CLASS_MAP: "model.onnx"}, "model.onnx"
    given: dict[str, object] = {
        "INFERENCE_NUM_THREADS": manifest.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "SKIP_OV_DYNAMIC_BATCHSIZE": "YES",
    }
    notes: tuple[str, ...] = ()
    if manifest.precision == "bf16":
        given["HINT_BF16"] = "YES"
    else:
        notes = (
            "Triton's OpenVINO backend cannot be told to stay in float32: a processor with bfloat16 units "
            "may compute in bfloat16 what was evaluated in float32.",
        )
    fields = {"backend": "openvino", "default_model_filename": main, **_parameters(given)}
    return Served(False, files, fields, notes)


def _parameters(values: dict[str, Any]) -> Message:
    return {
        "parameters": [{"key": key, "value": {"string_value": str(value)}} for key, value in values.items()]
    }


def _max_batch(contract: Contract) -> int:
    """Triton's max_batch_size; 0, the batch is an ordinary dimension, where one image alone is not taken."""
    batch = contract.input.batch
    if batch.min != 1 or batch.multiple != 1 or batch.max == 1:
        return 0
    return OPEN_BATCH if batch.max is None else batch.max


def _shape(contract: Contract) -> list[int]:
    """(B, H, W, 3) with -1 where it varies."""
    given = contract.input
    batch = given.batch.min if given.batch.min == given.batch.max else -1
    return [batch, *(-1 if isinstance(side, Range) else side for side in (given.height, given.width)), 3]


def _tensor(name: str, most: int, shape: list[int]) -> Message:
    return {"name": name, "data_type": Name("TYPE_UINT8"), "dims": shape[1:] if most else shape}


def _warmup(contract: Contract, most: int) -> Message:
    """Random images of the size that the bundle's geometry makes, before the model counts as ready."""
    dims = [*contract.geometry.size, 3]
    if most == 0:
        dims = [contract.input.batch.min, *dims]
    value = {"data_type": Name("TYPE_UINT8"), "dims": dims, "random_data": True}
    return {"name": "first", "batch_size": 1, "inputs": [{"key": contract.input.name, "value": value}]}


def _text(message: Message, indent: str = "") -> str:
    """A message in protobuf's text format."""
    lines = []
    for field, value in message.items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict):
                lines.append(f"{indent}{field} {{\n{_text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{field}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or isinstance(value, Name):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
