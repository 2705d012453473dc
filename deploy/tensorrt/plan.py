"""A plan from a graph: one code path for TensorRT 10.12 to 11 and TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from afdcd.errors import UserError
from deploy.config import Precision
from deploy.tensorrt.bindings import Bindings
from deploy.tensorrt.messages import last_error, listen, require_same_meaning, warnings
from deploy.tensorrt.network import Network, parse
from deploy.tensorrt.profiles import Span


class Built(NamedTuple):
    """A plan and what is worth knowing about it.

    Attributes:
        plan: the serialised engine.
        timing: the timing cache after the build; None where the library keeps none (TensorRT-RTX).
        layers: of the parsed network, before TensorRT fuses them.
        outputs: name -> (type, shape), -1 where a length is free.
        warnings: remarks that change no meaning.
    """

    plan: bytes
    timing: bytes | None
    layers: int
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    warnings: list[str]


def flags(precision: Precision) -> dict[str, bool]:
    """Builder flags by name, and whether they are set.

    Strict float32 is what parity is measured against; TensorFloat-32, on by default, has 10 bits of mantissa.
    """
    return {"TF32": precision != "fp32"}


def build_plan(
    bindings: Bindings,
    content: bytes,
    name: str,
    *,
    spans: Mapping[str, Span],
    precision: Precision,
    timing: bytes | None,
) -> Built:
    """Build the plan of an ONNX graph.

    Args:
        bindings: the library; TensorRT needs a GPU for this, TensorRT-RTX does not.
        content: of the ONNX file, whose types decide the precision.
        name: the file's name, for messages.
        spans: shapes of each input.
        precision: what the graph is typed in, for the flags.
        timing: a timing cache of the same library and GPU; None starts an empty one.

    Raises:
        UserError: as `parse`; or an input has no shapes; or TensorRT cannot build it (its reason is given).
    """
    listener = listen(bindings)
    network = parse(bindings, listener, content, name)
    config = network.builder.create_builder_config()
    for flag, on in flags(precision).items():
        (config.set_flag if on else config.clear_flag)(bindings.member("BuilderFlag", flag))
    _add_profile(network, config, name, spans)
    keeps = bindings.package == "tensorrt"
    if keeps:
        _use_timing(config, timing)
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise UserError(f"{bindings} cannot build {name}: {last_error(listener)}")
    require_same_meaning(warnings(listener), bindings, name)
    outputs = (network.definition.get_output(index) for index in range(network.definition.num_outputs))
    return Built(
        plan=bytes(plan),
        timing=_timing(config) if keeps else None,
        layers=int(network.definition.num_layers),
        outputs={tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in outputs},
        warnings=warnings(listener),
    )


def _add_profile(network: Network, config: Any, name: str, spans: Mapping[str, Span]) -> None:
    """One profile for all inputs with a free length; fixed ones need none."""
    definition = network.definition
    profile = network.builder.create_optimization_profile()
    free = False
    for index in range(definition.num_inputs):
        tensor = definition.get_input(index)
        shape = tuple(tensor.shape)
        if tensor.name not in spans:
            if -1 in shape:
                raise UserError(
                    f"input {tensor.name!r} of {name} has the free shape {shape}; "
                    "give its least, usual and most lengths"
                )
            continue
        wanted = spans[tensor.name]
        _require_fit(tensor.name, shape, wanted, name)
        if -1 in shape:
            profile.set_shape(tensor.name, wanted.least, wanted.usual, wanted.most)
            free = True
    if free:
        config.add_optimization_profile(profile)


def _require_fit(tensor: str, shape: tuple[int, ...], wanted: Span, name: str) -> None:
    """The shapes asked for have the graph's rank and agree where it is fixed, and least <= usual <= most."""
    for ends in wanted:
        fits = len(ends) == len(shape) and all(
            axis in (-1, length) for axis, length in zip(shape, ends, strict=True)
        )
        if not fits:
            raise UserError(
                f"input {tensor!r} of {name} has the shape {shape} (-1: free), which {ends} does not fit; "
                "export it for the sizes of the contract"
            )
    if not all(low <= mid <= high for low, mid, high in zip(*wanted, strict=True)):
        raise UserError(
            f"input {tensor!r} of {name}: usual {wanted.usual} is not between least {wanted.least} and "
            f"most {wanted.most}; set deploy.export.input_size inside deploy.export.dynamic"
        )


def _use_timing(config: Any, timing: bytes | None) -> None:
    """Give the config a timing cache; one that TensorRT finds foreign is dropped: it only saves time."""
    if timing is None or not config.set_timing_cache(config.create_timing_cache(timing), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _timing(config: Any) -> bytes | None:
    cache = config.get_timing_cache()
    return None if cache is None else bytes(cache.serialize())
