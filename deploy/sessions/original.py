"""An ONNX file as its makers run it: images prepared and scores enlarged in numpy, not in the graph."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx

from deploy import graph
from deploy.adopt import Adopted
from deploy.bundle import Contract
from deploy.pixels import prepared
from deploy.sessions.onnxruntime import open_graph


class OriginalSession:
    """What an adopted graph is held against: the file itself, fed with floats."""

    def __init__(self, path: Path, taken: Adopted) -> None:
        """Open the graph of `path` as it was, with the scores as its only output."""
        self._contract, self._scores = taken.contract, taken.scores
        outputs = {value.name: value for value in taken.model.graph.output}
        scores = outputs.get(taken.scores) or onnx.helper.make_empty_tensor_value_info(taken.scores)
        content = graph.to_bytes(graph.with_output(taken.model, scores))
        self._session = open_graph(content, str(path), threads=1)

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives."""
        return self._contract

    def infer(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class map (B, H, W) uint8 of images (B, H, W, 3) uint8."""
        return np.asarray(self.logits(images).argmax(axis=1), dtype=np.uint8)

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) at the input size."""
        given = self._session.get_inputs()[0]
        kind = np.float16 if given.type == "tensor(float16)" else np.float32
        feed = prepared(self._contract.admit(images), self._contract.normalisation).astype(kind)
        (scores,) = self._session.run([self._scores], {given.name: feed})
        return enlarged(np.asarray(scores, dtype=np.float32), self._contract.geometry.size)

    def compute_ms(self, images: npt.NDArray[Any]) -> float | None:
        """None: what is held against others is not timed."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


def enlarged(scores: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Scores (B, K, h, w) at (H, W), bilinear between the middles of pixels."""
    for axis, length in zip((2, 3), size, strict=True):
        before = scores.shape[axis]
        if before == length:
            continue
        places = ((np.arange(length) + 0.5) * before / length - 0.5).clip(0, before - 1)
        low = np.floor(places).astype(np.int64)
        high = np.minimum(low + 1, before - 1)
        share = (places - low).astype(np.float32).reshape(-1, *([1] * (3 - axis)))
        scores = scores.take(low, axis) * (1 - share) + scores.take(high, axis) * share
    return scores
