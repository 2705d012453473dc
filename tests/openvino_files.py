"""Exported graphs in OpenVINO's own format."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.bundle import CLASS_MAP, LOGITS, ir_names


def ir_files(graph: str, model: Any) -> dict[str, bytes]:
    """An openvino.Model as the two files that a bundle holds in place of an ONNX graph."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, Path(folder) / ir_names(graph)[0], compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in ir_names(graph)}


def float_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Both exported graphs in OpenVINO's format, unchanged."""
    from deploy.openvino_core import core

    return {
        name: content
        for graph in (CLASS_MAP, LOGITS)
        for name, content in ir_files(graph, core().read_model(files[graph])).items()
    }
