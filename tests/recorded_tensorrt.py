"""What NVIDIA's bindings really look like: recorded, since only TensorRT-RTX can be installed everywhere.

The parameter names were read from the signatures in the bindings' own docstrings: tensorrt_cu12_bindings
10.12.0.36, tensorrt_cu13_bindings 10.16.1.11 and 11.4.0.106 (each imported against empty libraries). They are
the same in all three; a test holds the installed TensorRT-RTX against them too.
"""

from __future__ import annotations

CALLS: dict[str, tuple[str, ...]] = {
    "ILogger.log": ("severity", "msg"),
    "Builder.__init__": ("logger",),
    "Builder.create_network": ("flags",),
    "Builder.create_builder_config": (),
    "Builder.create_optimization_profile": (),
    "Builder.build_serialized_network": ("network", "config"),
    "IBuilderConfig.set_flag": ("flag",),
    "IBuilderConfig.clear_flag": ("flag",),
    "IBuilderConfig.add_optimization_profile": ("profile",),
    "IBuilderConfig.create_timing_cache": ("serialized_timing_cache",),
    "IBuilderConfig.set_timing_cache": ("cache", "ignore_mismatch"),
    "IBuilderConfig.get_timing_cache": (),
    "IOptimizationProfile.set_shape": ("input", "min", "opt", "max"),
    "ITimingCache.serialize": (),
    "OnnxParser.__init__": ("network", "logger"),
    "OnnxParser.parse": ("model", "path"),
    "OnnxParser.get_error": ("index",),
    "ParserError.desc": (),
    "ParserError.node_name": (),
    "ParserError.node_operator": (),
    "INetworkDefinition.get_input": ("index",),
    "INetworkDefinition.get_output": ("index",),
    "Runtime.__init__": ("logger",),
    "Runtime.deserialize_cuda_engine": ("serialized_engine",),
    "ICudaEngine.create_execution_context": ("strategy",),
    "ICudaEngine.get_tensor_name": ("index",),
    "ICudaEngine.get_tensor_mode": ("name",),
    "ICudaEngine.get_tensor_dtype": ("name",),
    "IExecutionContext.set_optimization_profile_async": ("profile_index", "stream_handle"),
    "IExecutionContext.set_input_shape": ("name", "shape"),
    "IExecutionContext.infer_shapes": (),
    "IExecutionContext.get_tensor_shape": ("name",),
    "IExecutionContext.set_tensor_address": ("name", "memory"),
    "IExecutionContext.execute_async_v3": ("stream_handle",),
}
"""This project's calls and their parameters in order (of the first form, where there are more)."""

FLAGS: dict[str, dict[str, dict[str, int]]] = {
    "10.12.0.36": {
        "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        "BuilderFlag": {"FP16": 0, "INT8": 1, "TF32": 6, "VERSION_COMPATIBLE": 13},
    },
    "10.16.1.11": {
        "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        "BuilderFlag": {"FP16": 0, "INT8": 1, "TF32": 6, "VERSION_COMPATIBLE": 13},
    },
    "11.4.0.106": {
        "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED": 0},
        "BuilderFlag": {"TF32": 6, "VERSION_COMPATIBLE": 12},
    },
}
"""Numbers of flags by version: the same name has others, and some names went."""

PYCUDA: dict[str, tuple[str, ...]] = {
    "init": ("flags",),
    "mem_alloc": ("bytes",),
    "pagelocked_empty": ("shape", "dtype", "order", "mem_flags"),
    "memcpy_htod_async": ("dest", "src", "stream"),
    "memcpy_dtoh_async": ("dest", "src", "stream"),
    "Stream.__init__": ("flags",),
    "Stream.synchronize": (),
    "Event.record": ("stream",),
    "Event.synchronize": (),
    "Event.time_till": ("end",),
    "Device.__init__": ("ordinal",),
    "Device.name": (),
    "Device.compute_capability": (),
    "Device.retain_primary_context": (),
    "Context.push": (),
    "Context.pop": (),
    "DeviceAllocation.free": (),
    "PagelockedHostAllocation.free": (),
}
"""pycuda 2026.1, read from src/wrapper/wrap_cudadrv.cpp; positional where the source gives no name."""
