"""What two processes do together is what one does alone: gradients of additive terms, counts of val."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import two_ranks
from torch import Tensor, nn

from afdcd.data.loader import training_batches
from afdcd.data.manifest import Manifest
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.metrics import ConfusionMatrix
from afdcd.models.output import SegOutput
from afdcd.models.segmenter import build_segmenter
from afdcd.training import loop, validation
from afdcd.training.checkpoint import RunFolder
from afdcd.training.distillation import DistillationTask
from afdcd.training.distributed import World
from afdcd.training.precision import Precision
from afdcd.training.progress import Silent
from afdcd.training.task import Supervision

FP32 = Precision("cpu", bf16=False)
ALONE = World(0, 1, torch.device("cpu"))
ADDITIVE: dict[str, Any] = {
    "kd": {"weights": {"kd": 1.0}, "temperature": 2.0, "reduction": "pixel", "class_weighted": False},
    "afdcd": tiny.RECIPES["afdcd"]["afdcd"]
    | {"weights": {"masked_feature": 0.01, "omni_contrast": 0.1}, "patch_fraction": 0.5},
    "fitnet": {"weights": {"feature_mse": 10.0}},
    "cwd": {"weights": {"channel_logits": 3.0, "channel_features": 50.0}, "temperature": 4.0},
    "skd": {
        "weights": {"pairwise": 10.0, "adversarial": 0.1},
        "pool": 2,
        "discriminator_weight": 0.1,
        "discriminator_width": 4,
    },
    "ifvd": {"weights": {"intra_class": 20.0}},
    "at": {"weights": {"attention": 100.0}},
    "mgd": {
        "weights": {"masked_generation": 0.01},
        "mask_ratio": 0.75,
        "bottleneck": 8,
        "reduction": "sum",
    },
    "apd": {
        "weights": {"perspective_local": 1.0, "perspective_align": 1.0},
        "temperature": 0.1,
        "prototypes": "image",
        "adapter_lr_factor": 1.0,
        "teacher_adapter_lr": 0.001,
    },
}
"""Every method whose terms are means over images or pixels, with those weights that are so."""

VAL = (7, 501)


def gradients(world: World, manifest: Manifest, folder: Path) -> dict[str, Tensor]:
    """The gradients of one step over a global batch of four, with frozen batch norm and no dropout."""
    torch.manual_seed(3)
    student, teacher = (build_segmenter(tiny.model(), len(tiny.CLASSES)) for _ in range(2))
    objective = build_objective(ADDITIVE, Context(student.channels, teacher.channels, 255, None))
    supervision = Supervision(torch.tensor([0.5, 1.0, 1.5]), 0.4)
    task = DistillationTask(student, teacher, objective, supervision, FP32, FP32)
    plan = loop.Plan(tiny.schedule(optimiser={"clip_adapters": None}), tiny.practice(channels_last=False), 3)

    def batches(start: int, stop: int) -> Any:
        return training_batches(
            manifest,
            augment=plan.practice.augment,
            batch_size=plan.schedule.batch_size,
            seed=3,
            start=start,
            stop=stop,
            rank=world.rank,
            world_size=world.size,
            workers=0,
        )

    training = loop.Training(
        task,
        plan,
        batches=batches,
        validate=lambda network: 0.5,
        folder=RunFolder(folder, "tiny", "0"),
        world=world,
        display=Silent(),
    )
    for module in task.learner.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            module.eval()
    training._optimiser.step = lambda: None  # type: ignore[assignment,method-assign]
    training._step(0, next(batches(0, 1)))
    return {name: p.grad for name, p in task.learner.named_parameters() if p.grad is not None}


class Reader(nn.Module):
    """Names the class that a pixel's red value is, wrong where it is 2."""

    def forward(self, images: Tensor) -> SegOutput:
        named = torch.where(images[:, 0] == 2, 0, images[:, 0]).long()
        return SegOutput(nn.functional.one_hot(named, 3).movedim(3, 1).float(), (), None, None)


def counted(world: World, images: int) -> np.ndarray:
    """The confusion matrix of as many images of 4x6, each unlike the others."""

    def labels(entry: int) -> np.ndarray:
        return (np.arange(24).reshape(4, 6) * entry % 7 % 3).astype(np.uint8)

    data: Any = SimpleNamespace(
        num_classes=3,
        info=SimpleNamespace(ignore_index=255),
        folder="nowhere",
        split=lambda name: list(range(images)),
        image=lambda entry: np.repeat(labels(entry)[..., None], 3, axis=2),
        labels=labels,
    )
    totals = []

    class Kept(ConfusionMatrix):
        def miou(self, *arguments: Any) -> float:
            totals.append(self.counts.copy())
            return super().miou(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "ConfusionMatrix", Kept)
        validation.Validation(
            data, "val", size=(4, 6), mode="stretch", batch_size=16, precision=FP32, world=world
        )(Reader())  # type: ignore[arg-type]
    (total,) = totals
    return np.asarray(total)


def both(world: World, folder: Path) -> None:
    """What each rank does and leaves for the test to compare."""
    found: dict[str, Any] = {str(images): torch.from_numpy(counted(world, images)) for images in VAL}
    found["gradients"] = gradients(world, Manifest.load(folder / "prepared"), folder / f"run{world.rank}")
    torch.save(found, folder / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks left their findings."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny.write_prepared(folder / "prepared")
    two_ranks.run(__file__, "both", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(2))
def test_additive_terms_give_the_gradients_of_one_process(folder: Path, rank: int) -> None:
    alone = gradients(ALONE, Manifest.load(folder / "prepared"), folder / "alone")
    found = torch.load(folder / f"{rank}.pt")["gradients"]
    assert found.keys() == alone.keys()
    assert {name.split(".")[2] for name in alone if name.startswith("objective.")} == {
        *("afdcd", "fitnet", "cwd", "skd", "mgd", "apd"),
    }
    assert sum(bool(gradient.any()) for gradient in alone.values()) > 80
    for name, gradient in alone.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name


@pytest.mark.slow
@pytest.mark.parametrize("images", VAL)
def test_an_odd_number_of_images_is_counted_once_each(folder: Path, images: int) -> None:
    alone = counted(ALONE, images)
    assert alone.sum() == images * 24 and 0 < np.trace(alone) < alone.sum()
    for rank in range(2):
        assert np.array_equal(torch.load(folder / f"{rank}.pt")[str(images)].numpy(), alone)
