"""Anyone's ONNX file opened in an engine, fed with random inputs; a call for each stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError

Call = Callable[[], object]


@dataclass(frozen=True)
class Stream:
    """A stream of calls of a model, one after the other.

    Attributes:
        call: one call from host memory to host memory.
        compute_ms: the milliseconds of one run of the engine alone; None where it cannot be timed alone.
    """

    call: Call
    compute_ms: Callable[[], float | None]

    def __call__(self) -> object:
        """The call from end to end."""
        return self.call()


Array = npt.NDArray[Any]

ENGINES = (
    *("onnxruntime", "onnxruntime_cuda", "onnxruntime_tensorrt"),
    *("openvino", "openvino:bf16"),
)
"""Which can run an ONNX file as it is; openvino alone computes float32."""

_FLOATS: dict[str, type] = {"float": np.float32, "float16": np.float16, "f32": np.float32, "f16": np.float16}
_BYTES = ("uint8", "u8")


class Given(NamedTuple):
    """An input: None stands for an open length."""

    name: str
    shape: tuple[int | None, ...]
    kind: str


class Wish(NamedTuple):
    """A shape that a person asked for; an empty name is any input of that many dimensions."""

    name: str
    shape: tuple[int, ...]


def shape_of(given: Given, wishes: Sequence[Wish], path: Path) -> tuple[int, ...]:
    """The shape to run an input at.

    Raises:
        UserError: a length is open and none was asked for, or what was asked for is not what the graph takes.
    """
    shown = "x".join("?" if length is None else str(length) for length in given.shape)
    for wish in wishes:
        if wish.name != given.name and (wish.name or len(wish.shape) != len(given.shape)):
            continue
        asked = "x".join(map(str, wish.shape))
        if len(wish.shape) != len(given.shape) or any(
            length not in (None, want) for length, want in zip(given.shape, wish.shape, strict=True)
        ):
            raise UserError(
                f"{path}: input {given.name!r} takes {shown}, --shape asks for {asked}; ask for what it "
                "takes, or export the network with open sizes"
            )
        return wish.shape
    fixed = tuple(length for length in given.shape if length is not None)
    if len(fixed) < len(given.shape):
        raise UserError(
            f"{path}: input {given.name!r} has the shape {shown}; a benchmark needs fixed sizes, "
            f"give --shape {given.name}:{shown.replace('?', 'N')} with a number for each open one"
        )
    return fixed


def random_feed(inputs: Sequence[Given], wishes: Sequence[Wish], path: Path) -> dict[str, Array]:
    """Random values for all inputs.

    Raises:
        UserError: a shape is open or wrong, an input is of an unusual type, or a wish meets no input.
    """
    idle = [
        wish
        for wish in wishes
        if not any(
            wish.name == one.name or (not wish.name and len(wish.shape) == len(one.shape)) for one in inputs
        )
    ]
    if idle:
        names = ", ".join(repr(one.name) for one in inputs)
        raise UserError(f"{path}: --shape {idle[0].name}:{idle[0].shape} meets no input; there are {names}")
    random = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for given in inputs:
        shape = shape_of(given, wishes, path)
        if given.kind in _BYTES:
            feed[given.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif given.kind in _FLOATS:
            feed[given.name] = random.random(shape, dtype=np.float32).astype(_FLOATS[given.kind])
        else:
            raise UserError(f"{path}: input {given.name!r} is {given.kind}; uint8 and float can be measured")
    return feed


Feeder = Callable[[Sequence[Given], Sequence[Wish], Path], dict[str, Array]]
"""Makes the values of all inputs, like `random_feed`."""


def open_file(
    path: Path,
    engine: str,
    *,
    threads: int,
    wishes: Sequence[Wish] = (),
    streams: int = 1,
    feeder: Feeder = random_feed,
) -> list[Stream]:
    """`streams` calls of a file that may run at the same time, each on `threads` threads.

    A call gives the outputs as its engine does, in the graph's order (`outputs_of`).

    Raises:
        UserError: the engine is unknown or not here, or cannot load the file or run it at these shapes.
    """
    if engine not in ENGINES:
        raise UserError(f"the engine {engine!r} cannot run an ONNX file; take one of {', '.join(ENGINES)}")
    if engine.startswith("openvino"):
        return _openvino(path, engine, threads, wishes, streams, feeder)
    return _onnxruntime(path, engine, threads, wishes, streams, feeder)


def outputs_of(result: Any) -> list[Array]:
    """What a call of a file gave, as arrays in the order of the graph's outputs."""
    values = result.values() if hasattr(result, "values") else result
    return [np.asarray(value) for value in values]


def _onnxruntime(
    path: Path, engine: str, threads: int, wishes: Sequence[Wish], streams: int, feeder: Feeder
) -> list[Stream]:
    from deploy.sessions import onnxruntime as ours

    provider = {"onnxruntime_cuda": ours.CUDA, "onnxruntime_tensorrt": ours.TENSORRT}.get(engine, ours.CPU)
    # By its path: weights in other files are found beside it.
    try:
        session = ours.open_graph(str(path), str(path), threads=threads, provider=provider)
    except UserError as error:
        raise _explained(path, "onnxruntime", str(error)) or error from error
    inputs = [
        Given(
            one.name,
            tuple(length if isinstance(length, int) else None for length in one.shape),
            one.type.removeprefix("tensor(").removesuffix(")"),
        )
        for one in session.get_inputs()
    ]
    feed = feeder(inputs, wishes, path)

    def call() -> object:
        try:
            return session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions share no base below this
            raise UserError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0]}") from error

    @cache
    def placed() -> ours.Placed:
        return ours.Placed(session, feed, provider)

    # Its sessions take calls from several threads.
    return [Stream(call, lambda: placed().run_ms())] * streams


def _explained(path: Path, engine: str, reason: str) -> UserError | None:
    """What a person can mend and the engine's own words do not say: a lost file, an operator's node."""
    from deploy.graph import load, nodes

    try:
        model = load(path)
    except UserError as error:
        return error
    for node in nodes(model.graph):
        spellings = (
            rf"{node.domain or 'ai.onnx'}:{node.op_type}\(",  # onnxruntime, of a domain that it knows not
            rf"No Op registered for {node.op_type} with",  # onnxruntime, of ONNX's own domain
            rf"No conversion rule .*\b{node.op_type}\b",  # openvino
        )
        if any(re.search(spelling, reason) for spelling in spellings):
            operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
            return UserError(
                f"{path}: {engine} does not know the operator {operator} of node "
                f"{node.name or node.output[0]!r}; export the network without it"
            )
    return None


def _openvino(
    path: Path, engine: str, threads: int, wishes: Sequence[Wish], streams: int, feeder: Feeder
) -> list[Stream]:
    import openvino as ov

    from deploy.openvino_core import core
    from deploy.sessions.openvino import compile_graph, run_ms

    try:
        model = core().read_model(str(path))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        told = _explained(path, "openvino", str(error))
        raise told or UserError(f"openvino cannot load {path}: {reason}") from error
    inputs = [
        Given(
            one.any_name,
            tuple(None if length.is_dynamic else length.get_length() for length in one.partial_shape),
            one.element_type.get_type_name(),
        )
        for one in model.inputs
    ]
    feed = feeder(inputs, wishes, path)
    try:
        model.reshape({name: list(value.shape) for name, value in feed.items()})
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"openvino cannot run {path} at these shapes: {reason}") from error
    wanted = ov.Type.bf16 if engine.endswith(":bf16") else ov.Type.f32
    made = [
        compile_graph(core(), model, str(path), threads=threads, wanted=wanted).create_infer_request()
        for _ in range(streams)
    ]

    def stream_of(request: Any) -> Stream:
        def compute_ms() -> float:
            for name, value in feed.items():
                request.set_tensor(name, ov.Tensor(value))
            return run_ms(request)

        return Stream(lambda: request.infer(feed, share_inputs=True, share_outputs=False), compute_ms)

    return [stream_of(request) for request in made]
