"""The messages of the protocol's gRPC service, described from its published field numbers.

They live in a descriptor pool of their own: a program that also loads another copy of the service, such as
Triton's client, is not disturbed. Fields that an engine of one uint8 image has no use for are left out; what
a client puts there is skipped, as protobuf does with unknown fields.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"
TYPES = {"double": 1, "int64": 3, "uint64": 4, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}

Fields = dict[str, tuple[int, str]]
"""Number and type by name; `*` before a type repeats it, `map` leads from strings to InferParameter."""

TENSOR: Fields = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "*int64")}
MODEL: Fields = {"name": (1, "string"), "version": (2, "string")}
MESSAGES: dict[str, Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": MODEL,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**MODEL, "extensions": (3, "*string")},
    "ModelMetadataRequest": MODEL,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "*string"),
        "platform": (3, "string"),
        "inputs": (4, "*ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "*ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": TENSOR,
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {"uint_contents": (4, "*uint32"), "bytes_contents": (8, "*bytes")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "map"),
        "inputs": (5, "*ModelInferRequest.InferInputTensor"),
        "outputs": (6, "*ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "*bytes"),
    },
    "ModelInferRequest.InferInputTensor": {**TENSOR, "contents": (5, "InferTensorContents")},
    "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string")},
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "outputs": (5, "*ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "*bytes"),
    },
    "ModelInferResponse.InferOutputTensor": TENSOR,
}
"""A message before those inside it."""


def _add(message: Any, fields: Fields) -> None:
    for name, (number, kind) in fields.items():
        field = message.field.add(name=name, number=number, label=3 if kind.startswith("*") else 1)
        kind = kind.lstrip("*")
        if kind == "map":
            field.label, field.type = 3, 11
            field.type_name = f".{PACKAGE}.{message.name}.ParametersEntry"
            entry = message.nested_type.add(name="ParametersEntry")
            entry.options.map_entry = True
            _add(entry, {"key": (1, "string"), "value": (2, "InferParameter")})
        elif kind in TYPES:
            field.type = TYPES[kind]
        else:
            field.type, field.type_name = 11, f".{PACKAGE}.{kind}"


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        _add(made[name], fields)
    choice = made["InferParameter"]
    choice.oneof_decl.add(name="parameter_choice")
    for field in choice.field:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


CLASSES = _build()
"""Message classes by name."""
