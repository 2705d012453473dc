"""TensorRT's dozen calls by hand: a plan is the graph itself, and a context runs it in ONNX Runtime.

It keeps the rules that only a GPU would tell of: a network must be strongly typed, a free length needs a
profile, a plan runs on the version that built it, every tensor needs an address, a context serves one call at
a time, and nothing runs on the default stream.
"""

from __future__ import annotations

import json
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from fake_gpu import FakeGpu
from recorded_tensorrt import FLAGS

NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32}


def fake_tensorrt(gpu: FakeGpu, version: str = "11.4.0.106") -> Any:
    """The module `tensorrt` of a recorded version."""
    NetworkDefinitionCreationFlag, BuilderFlag = (  # noqa: N806 (NVIDIA's names here and below)
        IntEnum(name, FLAGS[version][name]) for name in ("NetworkDefinitionCreationFlag", "BuilderFlag")
    )
    DataType = IntEnum("DataType", {"FLOAT": 0, "UINT8": 5, "FP8": 6})  # noqa: N806
    TensorIOMode = IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})  # noqa: N806
    Severity = IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3})  # noqa: N806

    class ILogger:
        def __init__(self) -> None:
            self.ready = True

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IOptimizationProfile:
        def __init__(self) -> None:
            self.shapes: dict[str, list[list[int]]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self.shapes[input] = [list(min), list(opt), list(max)]

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content

    class IBuilderConfig:
        def __init__(self) -> None:
            self.flags = {BuilderFlag["TF32"]}
            self.profiles: list[IOptimizationProfile] = []
            self.cache: ITimingCache | None = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(BuilderFlag(flag))

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(BuilderFlag(flag))

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch, "kernel times of another GPU would be believed"
            if cache.content and not cache.content.startswith(version.encode()):
                return False
            self.cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self.cache

    class INetworkDefinition:
        def __init__(self) -> None:
            self.model: onnx.ModelProto | None = None

        def _tensor(self, value: onnx.ValueInfoProto) -> Any:
            kind = value.type.tensor_type
            dtype = DataType["UINT8" if kind.elem_type == onnx.TensorProto.UINT8 else "FLOAT"]
            shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
            return SimpleNamespace(name=value.name, shape=shape, dtype=dtype)

        @property
        def num_inputs(self) -> int:
            assert self.model is not None
            return len(self.model.graph.input)

        @property
        def num_outputs(self) -> int:
            assert self.model is not None
            return len(self.model.graph.output)

        @property
        def num_layers(self) -> int:
            assert self.model is not None
            return len(self.model.graph.node)

        def get_input(self, index: int) -> Any:
            assert self.model is not None
            return self._tensor(self.model.graph.input[index])

        def get_output(self, index: int) -> Any:
            assert self.model is not None
            return self._tensor(self.model.graph.output[index])

    class ParserError:
        def desc(self) -> str:
            return "false"

        def node_name(self) -> str:
            return "its_name"

        def node_operator(self) -> str:
            return "ItsOperator"

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self.network = network
            self.num_errors = 0

        def parse(self, model: bytes, path: str | None = None) -> bool:
            self.network.model = onnx.load_from_string(model)
            self.num_errors = int(any(node.domain for node in self.network.model.graph.node))
            return not self.num_errors

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class Builder:
        def __init__(self, logger: Any) -> None:
            assert logger.ready
            self.logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            assert flags == 1 << FLAGS[version]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
            assert network.model is not None
            shapes = config.profiles[0].shapes if config.profiles else {}
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                if -1 in tensor.shape and tensor.name not in shapes:
                    self.logger.log(Severity["ERROR"], "no optimization profile has been defined")
                    return None
                shapes.setdefault(tensor.name, [list(tensor.shape)] * 3)
            if config.cache is not None:
                config.cache.content = version.encode() + b" measured"
            tf32 = BuilderFlag["TF32"] in config.flags
            head = json.dumps({"version": version, "shapes": shapes, "tf32": tf32}).encode()
            return head + b"\n" + network.model.SerializeToString()

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine) -> None:
            self.engine = engine
            self.shape: tuple[int, ...] | None = None
            self.addresses: dict[str, int] = {}
            self.profile: int | None = None
            self.busy = False

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            assert stream_handle in gpu.streams
            self.profile = profile_index
            return profile_index == 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = self.engine.shapes[name]
            inside = len(shape) == len(least) and all(
                low <= length <= high for low, length, high in zip(least, shape, most, strict=True)
            )
            if not inside:
                self.engine.logger.log(Severity["ERROR"], f"{shape} is outside the profile {least}..{most}")
                return False
            self.shape = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            return [] if self.shape is not None else list(self.engine.shapes)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            assert self.shape is not None
            if name in self.engine.shapes:
                return self.shape
            value = self.engine.model.graph.output[0]
            rank = len(value.type.tensor_type.shape.dim)
            batch, height, width, _ = self.shape
            channels = value.type.tensor_type.shape.dim[1].dim_value
            return (batch, height, width) if rank == 3 else (batch, channels, height, width)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert name in self.engine.names and memory in gpu.device
            self.addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert stream_handle, "the default stream"
            assert self.profile == 0 and set(self.addresses) == set(self.engine.names)
            if self.engine.failing:
                self.engine.logger.log(Severity["ERROR"], "an illegal memory access was encountered")
                return False
            if stream_handle not in gpu.captures:
                assert not self.busy or gpu.streams[stream_handle], "a context serves one call at a time"
                self.busy = True
            gpu.queue(stream_handle, self._run)
            return True

        def _run(self) -> None:
            source, target = self.engine.names
            images = self._view(source)
            (result,) = self.engine.session.run([target], {source: images})
            self._view(target)[...] = result
            self.busy = False

        def _view(self, name: str) -> Any:
            dtype = NUMPY[self.engine.get_tensor_dtype(name).name]
            return gpu.device[self.addresses[name]].view(dtype).reshape(self.get_tensor_shape(name))

    class ICudaEngine:
        failing = False

        def __init__(self, head: dict[str, Any], graph: bytes, logger: Any) -> None:
            self.model = onnx.load_from_string(graph)
            self.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
            self.shapes = head["shapes"]
            self.names = [self.model.graph.input[0].name, self.model.graph.output[0].name]
            self.num_io_tensors = 2
            self.logger = logger
            made.append(self)

        def get_tensor_name(self, index: int) -> str:
            return self.names[index]

        def get_tensor_mode(self, name: str) -> Any:
            return TensorIOMode["INPUT" if name in self.shapes else "OUTPUT"]

        def get_tensor_dtype(self, name: str) -> Any:
            value = {value.name: value for value in (*self.model.graph.input, *self.model.graph.output)}[name]
            uint8 = value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
            return DataType["UINT8" if uint8 else "FLOAT"]

        def create_execution_context(self, strategy: int = 0) -> IExecutionContext:
            gpu.require_current()
            return IExecutionContext(self)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            gpu.require_current()
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            head, _, graph = serialized_engine.partition(b"\n")
            try:
                told = json.loads(head)
            except ValueError:
                told = {}
            if told.get("version") != version:
                self.logger.log(
                    Severity["ERROR"], "Serialization assertion stdVersionRead == kSTD_VERSION failed"
                )
                return None
            return ICudaEngine(told, graph, self.logger)

    made: list[ICudaEngine] = []
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # find_spec, which PyTorch calls, wants one
    classes = (
        *(ILogger, Builder, IBuilderConfig, IOptimizationProfile, ITimingCache, OnnxParser, ParserError),
        *(INetworkDefinition, Runtime, ICudaEngine, IExecutionContext),
    )
    module.__dict__.update({kind.__name__: kind for kind in classes})
    module.__dict__.update(
        __version__=version,
        made=made,
        BuilderFlag=BuilderFlag,
        NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
    )
    return module
