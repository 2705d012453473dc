from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.geometry import Fit
from afdcd.metrics import ConfusionMatrix
from afdcd.models.segmenter import Segmenter, build_segmenter
from afdcd.training.distributed import World
from afdcd.training.precision import Precision
from afdcd.training.validation import Validation
from deploy.evaluate import Sample, evaluate

FP32 = Precision("cpu", bf16=False)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def network(manifest: Manifest) -> Segmenter:
    """Untrained, but with logits around 0, so that every class is named somewhere."""
    torch.manual_seed(0)
    network = build_segmenter(tiny.model(), len(tiny.CLASSES)).eval()
    image = torch.from_numpy(manifest.image(manifest.split("val")[0]).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        network.classifier.bias -= network(image).logits.mean((0, 2, 3))
    return network.train()


def validation(manifest: Manifest, **changes: Any) -> Validation:
    settings = {"size": tiny.SIZE, "mode": "stretch", "batch_size": 2, "precision": FP32, "world": ALONE}
    return Validation(manifest, "val", **settings | changes)


def test_it_is_the_confusion_matrix_over_whole_images(manifest: Manifest, network: Segmenter) -> None:
    matrix = ConfusionMatrix(len(tiny.CLASSES))
    network.eval()
    for entry in manifest.split("val"):
        image = torch.from_numpy(manifest.image(entry).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = F.interpolate(network(image).logits, tiny.SIZE, mode="bilinear")
        matrix.update(logits.argmax(1)[0].numpy().astype(np.uint8), manifest.labels(entry))
    assert validation(manifest)(network) == pytest.approx(matrix.miou())
    assert validation(manifest, batch_size=5)(network) == pytest.approx(matrix.miou())


@pytest.mark.parametrize(
    ("size", "mode"), [((48, 64), "stretch"), ((48, 64), "letterbox"), ((24, 80), "stretch")]
)
def test_it_is_the_score_that_an_engine_of_that_size_gets(
    manifest: Manifest, network: Segmenter, size: tuple[int, int], mode: Fit
) -> None:
    class Engine:
        def infer(self, images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                logits = network(torch.from_numpy(images.copy()).permute(0, 3, 1, 2)).logits
                return F.interpolate(logits, size, mode="bilinear").argmax(1).numpy().astype(np.uint8)

    network.eval()
    samples = [
        Sample(entry.name, manifest.image(entry), manifest.labels(entry)) for entry in manifest.split("val")
    ]
    found = evaluate(Engine(), samples, classes=tiny.CLASSES, ignore_index=255, size=size, mode=mode)
    assert validation(manifest, size=size, mode=mode)(network) == pytest.approx(found.score.miou)
    assert found.score.miou != pytest.approx(validation(manifest)(network))


def test_processes_share_the_images_without_padding(
    manifest: Manifest, network: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def collect(world: World, tensor: torch.Tensor) -> torch.Tensor:
        counts.append(tensor.clone())
        return tensor

    monkeypatch.setattr(World, "sum", collect)
    for rank, size in [(0, 1), (0, 2), (1, 2)]:
        validation(manifest, world=World(rank, size, torch.device("cpu")))(network)
    whole, *parts = counts
    assert sum(parts).equal(whole)


def test_it_leaves_mode_and_statistics_alone(manifest: Manifest, network: Segmenter) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    validation(manifest)(network)
    assert network.training
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


def test_an_empty_split_is_refused(manifest: Manifest) -> None:
    with pytest.raises(UserError, match="no split 'nothing'"):
        Validation(
            manifest, "nothing", size=(8, 8), mode="stretch", batch_size=1, precision=FP32, world=ALONE
        )
