"""A folder for NVIDIA Triton: models/ is the model repository, beside it a manifest for KServe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from afdcd.errors import UserError
from afdcd.files import atomic_folder
from deploy.bundle import MANIFEST, Manifest, checked_bytes, read_manifest
from deploy.config import Config
from deploy.serving.triton import LABELS, Service, config, served

MODELS = "models"
KSERVE = "inferenceservice.yaml"


class Placed(Config):
    """A version of a model in the repository."""

    model: str
    version: int
    bundle: str
    backend: str
    device: str
    notes: list[str]


class Fleet(Config):
    """What the manifest for KServe says beside the models.

    Attributes:
        storage: where the cluster finds the content of models/.
        container: the tag of the official image.
        replicas: fewest and most.
        concurrency: requests in flight a replica that autoscaling aims at.
    """

    storage: str
    container: str
    replicas: tuple[int, int]
    concurrency: int


class _Given(NamedTuple):
    name: str
    bundle: Path
    manifest: Manifest


def write(given: Sequence[str], out: Path, service: Service, fleet: Fleet) -> list[Placed]:
    """Write the repository of bundles; `out` appears, or is replaced, only as a whole.

    Args:
        given: a bundle's folder, or NAME=FOLDER. A name given again is the next version of that model.
        out: the folder to make; an older one that this wrote is replaced.
        service: how each model is scheduled.
        fleet: for the manifest.

    Raises:
        UserError: a bundle is damaged or Triton cannot serve it, names clash, versions of a model differ in
            more than their weights, or `out` holds something else.
    """
    models = _named(given)
    if out.exists() and not (out / KSERVE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is no Triton folder of this command; name another --out")
    placed: list[Placed] = []
    with atomic_folder(out) as folder:
        for name, versions in models.items():
            _write_model(folder / MODELS / name, versions, service)
            placed += [_placed(one, version) for version, one in enumerate(versions, start=1)]
        manifests = [versions[-1].manifest for versions in models.values()]
        text = yaml.safe_dump(kserve(manifests, service, fleet), sort_keys=False)
        (folder / KSERVE).write_text(text, encoding="utf-8")
    return placed


def kserve(manifests: Sequence[Manifest], service: Service, fleet: Fleet) -> dict[str, Any]:
    """An InferenceService of KServe that runs the models on Triton and scales with requests in flight."""
    gpu = any(served(manifest).gpu for manifest in manifests)
    threads = sum(service.instances * one.threads for one in manifests if not served(one).gpu)
    resources = {"cpu": str(max(1, threads)), "memory": "4Gi"} | ({"nvidia.com/gpu": "1"} if gpu else {})
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": "kserve-tritonserver",
        "runtimeVersion": fleet.container,
        "protocolVersion": "v2",
        "storageUri": fleet.storage,
        "args": ["--disable-auto-complete-config"],
        "resources": {"requests": resources, "limits": resources},
    }
    if gpu and any(one.precision == "fp32" for one in manifests):
        model["env"] = [{"name": "NVIDIA_TF32_OVERRIDE", "value": "0"}]
    least, most = fleet.replicas
    predictor = {
        "minReplicas": least,
        "maxReplicas": most,
        "scaleMetric": "concurrency",
        "scaleTarget": fleet.concurrency,
        "model": model,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "segmentation"},
        "spec": {"predictor": predictor},
    }


def _named(given: Sequence[str]) -> dict[str, list[_Given]]:
    """Name -> versions, oldest first."""
    models: dict[str, list[_Given]] = {}
    for text in given:
        name, explicit, folder = text.rpartition("=")
        manifest = read_manifest(Path(folder))
        name = name if explicit else manifest.model
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise UserError(
                f"{name!r} is no name for a model: letters, digits, _ . - only; give NAME={folder}"
            )
        if name in models and not explicit:
            raise UserError(
                f"two bundles are called {name}: give each a name (NAME={folder}), or the same name "
                "to both to make them versions of one model"
            )
        models.setdefault(name, []).append(_Given(name, Path(folder), manifest))
    return models


def _write_model(folder: Path, versions: Sequence[_Given], service: Service) -> None:
    first = versions[0].manifest
    text = config(versions[0].name, first, service)
    for one in versions:
        same = one.manifest.contract.classes == first.contract.classes
        if not same or config(one.name, one.manifest, service) != text:
            raise UserError(
                f"{one.bundle} and {versions[0].bundle} cannot be versions of {one.name}: classes, shapes or "
                "engine differ; give them different names"
            )
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    (folder / LABELS).write_text("".join(f"{label}\n" for label in first.contract.classes), encoding="utf-8")
    for version, one in enumerate(versions, start=1):
        place = folder / str(version)
        place.mkdir()
        for source, target in served(one.manifest).files.items():
            if source not in one.manifest.files:
                raise UserError(f"{one.bundle} holds no {source}, which Triton would load; build it again")
            content = checked_bytes(one.bundle / source, one.manifest.files[source].sha256)
            (place / target).write_bytes(content)
        (place / MANIFEST).write_bytes((one.bundle / MANIFEST).read_bytes())


def _placed(one: _Given, version: int) -> Placed:
    how = served(one.manifest)
    return Placed(
        model=one.name,
        version=version,
        bundle=str(one.bundle),
        backend=str(how.fields.get("platform", how.fields["backend"])),
        device="GPU" if how.gpu else "CPU",
        notes=list(how.notes),
    )
