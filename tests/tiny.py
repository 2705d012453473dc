"""The smallest data set, networks and params that train: for tests of the loop and of the training stages."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from afdcd.config import ModelConfig, PracticeConfig, ScheduleConfig
from afdcd.data.manifest import Manifest

CLASSES = ("road", "sky", "car")
SIZE = (32, 64)

MODEL: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "output_stride": 8,
    "head": "deeplabv3",
    "head_channels": 8,
    "atrous_rates": [1, 2, 3],
    "dropout": 0.1,
    "projection_dropout": 0.5,
    "auxiliary": True,
    "pretrained": "none",
    "normalisation": {"order": "rgb", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
}
OPTIMISER: dict[str, Any] = {
    "name": "adamw",
    "lr": 0.005,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "poly_power": 0.9,
    "warmup_iterations": 2,
    "clip_adapters": 15.0,
}
SCHEDULE: dict[str, Any] = {"iterations": 8, "batch_size": 4, "validate_every": 4, "optimiser": OPTIMISER}
PRACTICE: dict[str, Any] = {
    "augment": {
        "order": "window",
        "crop": list(SIZE),
        "scale": [1.0, 1.2],
        "fill": [0, 0, 0],
        "flip": 0.5,
        "balanced": 0.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    },
    "class_weights": "log",
    "auxiliary_weight": 0.4,
    "precision": "fp32",
    "teacher_precision": "fp32",
    "channels_last": True,
    "sync_bn": False,
    "micro_batch": None,
    "compile": False,
    "ema": None,
    "checkpoint_every": 3,
}
RECIPES: dict[str, Any] = {
    "kd": {"kd": {"weights": {"kd": 1.0}, "temperature": 1.0, "reduction": "pixel", "class_weighted": True}},
    "afdcd": {
        "kd": {"weights": {"kd": 1.0}, "temperature": 1.0, "reduction": "pixel", "class_weighted": True},
        "afdcd": {
            "weights": {"masked_feature": 4.0e-5, "omni_contrast": 0.002},
            "mask_ratio": 0.75,
            "bottleneck": None,
            "pool": 1,
            "patch_size": 2,
            "patch_fraction": 1.0,
            "groups": 4,
            "temperature": 0.07,
            "distance": "l1",
            "negatives": "cross_group",
            "reduction": "sum",
        },
    },
}

CIRKD: dict[str, Any] = {
    "weights": {"mini_batch_pixel": 1.0},
    "temperature": 0.1,
    "pool": 1,
    "pixel_memory": 20,
    "region_memory": 5,
    "pixels_per_class": 3,
    "pixel_contrast": 12,
    "region_contrast": 6,
}


def model(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(MODEL | changes)


def schedule(optimiser: dict[str, Any] | None = None, **changes: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate(SCHEDULE | {"optimiser": OPTIMISER | (optimiser or {})} | changes)


def practice(**changes: Any) -> PracticeConfig:
    return PracticeConfig.model_validate(PRACTICE | changes)


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A road below, a sky above, a car somewhere: (H, W, 3) and ids (H, W), learnable in a few steps."""
    rng = np.random.default_rng(number)
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[: rng.integers(10, 20)] = 1
    left = rng.integers(4, 40)
    mask[16:26, left : left + 16] = 2
    colours = np.array([[90, 90, 90], [120, 170, 230], [200, 40, 40]])
    image = colours[mask] + rng.normal(0, 12, (*SIZE, 3))
    mask[0, :3] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def write_prepared(folder: Path, train: int = 12, val: int = 5) -> Manifest:
    """A prepared folder as `prepare` leaves it."""
    folder.mkdir(parents=True)
    rows = []
    pixels: dict[str, list[int]] = {}
    for split, names in {"train": range(train), "val": range(100, 100 + val)}.items():
        counts = np.zeros(256, dtype=np.int64)
        for number in names:
            files = {}
            for kind, array in zip(("image", "mask"), picture(number), strict=True):
                path = folder / f"{kind}_{number}.png"
                Image.fromarray(array).save(path)
                files[kind] = path.name
                files[f"{kind}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            counts += np.bincount(picture(number)[1].ravel(), minlength=256)
            rows.append(
                {"name": str(number), "split": split, "height": SIZE[0], "width": SIZE[1], **files},
            )
        pixels[split] = counts[: len(CLASSES)].tolist()
    info = {
        "name": "tiny",
        "classes": CLASSES,
        "palette": [[90, 90, 90], [120, 170, 230], [200, 40, 40]],
        "label_map": [*range(len(CLASSES)), *[255] * (256 - len(CLASSES))],
        "ignore_index": 255,
        "licence": "none",
        "mask_colours": None,
        "root": None,
        "splits": {"train": train, "val": val},
        "class_pixels": pixels,
        "class_image_pixels": pixels,
        "ignored_pixels": {"train": 3 * train, "val": 3 * val},
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Manifest.load(folder)


def write_project(root: Path, repository: Path) -> dict[str, Any]:
    """A project's folder in which the training stages run: params, data, fingerprints; returns the params."""
    params: dict[str, Any] = yaml.safe_load((repository / "params.yaml").read_text())
    params["teacher"] |= {"model": MODEL, "schedule": SCHEDULE}
    params["students"] = {"tiny": MODEL}
    params["deploy"]["export"]["input_size"] = list(SIZE)
    params["train"] |= {"students": ["tiny"], "schedule": SCHEDULE, "practice": PRACTICE}
    params["distill"] = {"run": list(RECIPES), "recipes": RECIPES}
    params["runtime"] |= {"device": "cpu", "processes": 1, "workers": 0, "threads": 1, "cache_gb": 1}
    params["runtime"]["contrast"] = "auto"
    write_params(root, params)
    write_prepared(root / "data/prepared")
    stages = ["train_teacher", "train_student", *(f"{s}/{r}" for s in ("adapt", "distill") for r in RECIPES)]
    for stage in stages:
        path = root / "fingerprints" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return copy.deepcopy(params)


def write_params(root: Path, params: dict[str, Any]) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(params))
