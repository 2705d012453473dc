"""The short page that goes with a released bundle, written from its manifest alone."""

from __future__ import annotations

from typing import Any

from deploy.bundle import Manifest

PAGE = """# {model} on {target}

Semantic segmentation into {count} classes: {classes}.

- **In**: uint8 RGB images (B, {height}, {width}, 3), values 0..255; `afdcd.geometry.fit` ({fit}) brings any
  image to that size. **Out**: uint8 class numbers (B, {height}, {width}). Normalisation, upsampling and
  argmax are inside the graph.
- **Engine**: {backend}, {precision}, {megabytes:.2f} MB, {parameters:,} parameters{form}.
- **Accuracy** on the {images} images of the {split} split of {data}, on this engine: mIoU {miou:.2f}, pixel
  accuracy {accuracy:.2f}, {agreement:.3f} % of pixels as in PyTorch.
- **Latency** at batch {batch} on {threads} thread(s) of {cpu}: p50 {p50:.3f} ms,
  {throughput:.1f} images/s{state}.

| class | IoU |
|---|---|
{table}

```python
from pathlib import Path

from deploy.sessions import open_session

with open_session(Path("."), threads={threads}) as session:
    class_map = session.infer(images)
```

`sha256sum -c SHA256SUMS` checks the files. Made by commit {commit}. Licence of the data: {licence}.
manifest.json holds all figures, every gate, the hardware and the hashes.
"""


def _iou(value: float | None) -> str:
    return "not in the set" if value is None else f"{100 * value:.1f}"


def card(manifest: Manifest, measured: dict[str, Any]) -> str:
    """README.md of a released bundle, Markdown; `measured` is the manifest's field of that name."""
    accuracy, latency, provenance = measured["accuracy"], measured["latency"], measured["provenance"]
    contract, git = manifest.contract, provenance["git"]
    reason = latency["steadiness"]["reason"]
    commit = (
        "unknown" if git is None else git["commit"][:12] + (" (with local changes)" if git["dirty"] else "")
    )
    return PAGE.format(
        model=manifest.model,
        target=manifest.target,
        count=len(contract.classes),
        classes=", ".join(contract.classes),
        height=contract.geometry.size[0],
        width=contract.geometry.size[1],
        fit=contract.geometry.fit,
        backend=manifest.backend,
        precision=manifest.precision,
        megabytes=manifest.size() / 1e6,
        parameters=contract.parameters,
        form=manifest.form(),
        images=accuracy["images"],
        split=accuracy["split"],
        data=provenance["data"]["name"],
        miou=100 * accuracy["miou"],
        accuracy=100 * accuracy["pixel_accuracy"],
        agreement=100 * accuracy["agreement"],
        batch=latency["batch_size"],
        threads=manifest.threads,
        cpu=measured["hardware"]["cpu"]["model"],
        p50=latency["latency_ms"]["p50"],
        throughput=latency["throughput"],
        state="" if reason is None else f" (unstable: {reason})",
        table="\n".join(f"| {name} | {_iou(accuracy['iou'][name])} |" for name in contract.classes),
        commit=commit,
        licence=provenance["data"]["licence"],
    )
