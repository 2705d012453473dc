"""Graphs in OpenVINO's own format: as they are, and in INT8 by its quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.bundle import CLASS_MAP, LOGITS, ir_names


def ir_files(graph: str, model: Any) -> dict[str, bytes]:
    """An openvino.Model as the two files that a bundle holds in place of an ONNX graph."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, Path(folder) / ir_names(graph)[0], compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in ir_names(graph)}


def float_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Both exported graphs in OpenVINO's format, unchanged."""
    import openvino as ov

    core = ov.Core()
    return {
        name: content
        for graph in (CLASS_MAP, LOGITS)
        for name, content in ir_files(graph, core.read_model(files[graph])).items()
    }


def nncf_files(files: Mapping[str, bytes], feeds: Sequence[npt.NDArray[np.uint8]]) -> dict[str, bytes]:
    """Both exported graphs in INT8, calibrated on uint8 images (1, H, W, 3) each."""
    import nncf
    import openvino as ov

    core = ov.Core()
    made: dict[str, bytes] = {}
    for graph in (CLASS_MAP, LOGITS):
        quantised = nncf.quantize(
            core.read_model(files[graph]),
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
        )
        made |= ir_files(graph, quantised)
    return made
