"""`python -m deploy kit`: bundles, images and masks as a folder that another device measures."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from afdcd.errors import UserError
from afdcd.files import sha256, write_json
from deploy.build import ENGINE_FILES
from deploy.bundle import CONTRACT, MANIFEST, PARITY, QUANTISATION, Manifest, verify, write_model
from deploy.cli import Verbs
from deploy.config import BenchmarkConfig, GatesConfig, TargetConfig
from deploy.evaluate import Score, evaluate
from deploy.kit import Kit, Labelled, Plan, write_kit
from deploy.maps import save_maps
from deploy.pairs import Pair, pair, read
from deploy.probes import probe
from deploy.progress import track
from deploy.sessions import open_session

TIMED = 8
"""Images that the calls of a benchmark go round."""

OPEN = GatesConfig(
    min_retention=None,
    min_gain_over_alone=None,
    export_min_agreement=None,
    export_max_relative_error=None,
    min_agreement={},
    max_relative_error={},
    max_drop={},
    max_class_drop={},
    min_speedup_over_teacher=None,
    max_size_mb=None,
    max_p50_ms={},
    max_p99_ms={},
)
"""A person with bundles alone has set no limits; a kit of the pipeline takes those of params.yaml."""


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("kit", "a folder with bundles and test images, for `measure` on another device")
    verb.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="the first is the baseline")
    verb.add_argument("--device", required=True, help="its name: letters, digits and _")
    verb.add_argument("--images", type=Path, required=True)
    verb.add_argument("--masks", type=Path, required=True, help="class numbers, <image name>.png each")
    verb.add_argument("--data", default="images of one's own", help="what the images are, for the record")
    verb.add_argument("--licence", default="not told", help="of the images")
    verb.add_argument("--out", type=Path, required=True, help="the folder to write; replaced as a whole")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the kit.

    Raises:
        UserError: a bundle, an image or a mask is not what it should be, or bundles do not go together.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", options.device):
        raise UserError(f"--device: {options.device!r} is no possible name; use letters, digits and '_'")
    manifests = {path: verify(path) for path in options.bundles}
    pairs = pair(options.images, options.masks)
    with tempfile.TemporaryDirectory(prefix="kit-") as temporary:
        plan = _plan(options, manifests, pairs, Path(temporary))
        kit = write_kit(options.out, plan, _labelled(pairs))
    _tell(options, kit)


def _plan(
    options: argparse.Namespace, manifests: dict[Path, Manifest], pairs: list[Pair], temporary: Path
) -> Plan:
    models = list(dict.fromkeys(manifest.model for manifest in manifests.values()))
    targets: dict[str, TargetConfig] = {}
    typed: dict[tuple[str, str], Path] = {}
    for path, manifest in manifests.items():
        spec = TargetConfig(
            backend=manifest.backend,
            precision=manifest.precision,
            where=options.device,
            threads=manifest.threads,
        )
        if targets.setdefault(manifest.target, spec) != spec or (manifest.target, manifest.model) in typed:
            raise UserError(f"{path}: another bundle is {manifest.model} on {manifest.target} too; give one")
        typed[manifest.target, manifest.model] = _typed(path, manifest, temporary / str(len(typed)))
    lacking = [(target, model) for target in targets for model in models if (target, model) not in typed]
    if lacking:
        raise UserError(
            f"there is no bundle of {lacking[0][1]} for {lacking[0][0]}; give one for each target"
        )
    scores: dict[str, Score] = {}
    maps: dict[str, Path] = {}
    logits: dict[str, Path] = {}
    for index, model in enumerate(models):
        path = next(path for path, manifest in manifests.items() if manifest.model == model)
        maps[model], logits[model] = (temporary / f"{index}_{kind}.npz" for kind in ("maps", "logits"))
        scores[model] = _reference(path, manifests[path], pairs, maps[model], logits[model])
    return Plan(
        device=options.device,
        targets=targets,
        models=models,
        typed=typed,
        baseline=models[0],
        reference="the first bundle of each model, on the machine that wrote the kit",
        references=scores,
        maps=maps,
        logits=logits,
        released=models,
        controls={},
        split="test",
        data=options.data,
        licence=options.licence,
        benchmark=BenchmarkConfig(batch_size=1, warmup=10, iterations=140, rounds=5, max_cv=0.1),
        gates=OPEN,
        timing=[found.image for found in pairs[:TIMED]],
        calibration=np.zeros((0, 1, 1, 3), dtype=np.uint8),
    )


def _typed(bundle: Path, manifest: Manifest, folder: Path) -> Path:
    """The graphs of a bundle as the stage quantize leaves them."""
    names = [name for name in ENGINE_FILES if name in manifest.files]
    if not names:
        raise UserError(f"{bundle} holds no graph that another device could build from")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes((bundle / name).read_bytes())
    write_model(folder / CONTRACT, manifest.contract)
    write_json(folder / QUANTISATION, manifest.quantisation)
    write_json(folder / PARITY, manifest.parity)
    return folder


def _reference(bundle: Path, manifest: Manifest, pairs: list[Pair], maps: Path, logits: Path) -> Score:
    contract = manifest.contract
    with open_session(bundle, threads=manifest.threads) as session:
        found = evaluate(
            session,
            track(read(pairs), f"{manifest.model} here", len(pairs)),
            classes=contract.classes,
            ignore_index=contract.ignore_index,
            size=contract.geometry.size,
            mode=contract.geometry.fit,
            gallery=len(pairs),
            engine=sha256(bundle / MANIFEST),
        )
        geometry = contract.geometry
        probes = probe(session, read(pairs), size=geometry.size, mode=geometry.fit)
    save_maps(maps, found.maps)
    save_maps(logits, probes)
    return found.score


def _labelled(pairs: list[Pair]) -> Iterator[Labelled]:
    for found, sample in zip(pairs, read(pairs), strict=True):
        yield Labelled(found.name, found.image, sample.labels)


def _tell(options: argparse.Namespace, kit: Kit) -> None:
    if options.json:
        print(kit.model_dump_json(indent=1))
        return
    size = sum(record.bytes for record in kit.files.values()) / 1e6
    print(
        f"{options.out}: {', '.join(kit.models)} on {', '.join(kit.targets)}; "
        f"{len(kit.samples)} images, {size:.1f} MB"
    )
    print(f"on {kit.device}: python -m deploy measure {options.out.name}")
