"""A network of one second that keeps the promises of a Segmenter, trained a little, and its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.config import Normalisation
from deploy.bundle import ClassMapOutput, Contract, Geometry, ImageInput, Range
from deploy.evaluate import Sample

SIZE = (32, 64)
CLASSES = ["road", "sky", "car"]
NORMALISATION = Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


class Output(NamedTuple):
    features: Tensor
    logits: Tensor


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class LittleNet(nn.Module):
    """Normalisation, residual addition, max pooling, concatenation, dropout: what engines must carry over."""

    mean: Tensor
    std: Tensor

    def __init__(self, auxiliary: bool = False) -> None:
        super().__init__()
        for name in ("mean", "std"):
            value = torch.tensor(getattr(NORMALISATION, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.stem, self.body, self.tail = _block(3, 16, 2), _block(16, 16, 1), _block(16, 16, 1)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Conv2d(32, len(CLASSES), 1)
        self.auxiliary = nn.Conv2d(16, len(CLASSES), 1) if auxiliary else None

    def forward(self, images: Tensor) -> Output:
        stem = F.max_pool2d(self.stem((images.float() - self.mean) / self.std), 3, 2, 1)
        features = stem + self.body(stem)
        both = torch.cat([features, self.tail(features)], dim=1)
        return Output(features, self.classifier(self.dropout(both)))


class PyramidNet(LittleNet):
    """A LittleNet with adaptive pooling, as a module and as a function, which needs surgery to export."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(6)
        self.level = _block(32, 8, 1)
        self.classifier = nn.Conv2d(32 + 8, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Output:
        stem = F.max_pool2d(self.stem((images.float() - self.mean) / self.std), 3, 2, 1)
        features = stem + self.body(stem)
        both = torch.cat([features, self.tail(features)], dim=1)
        pooled = self.level(F.adaptive_avg_pool2d(self.pool(both), (2, 3)))
        spread = F.interpolate(pooled, size=both.shape[2:], mode="bilinear", align_corners=False)
        dropped = F.dropout(torch.cat([both, spread], dim=1), training=self.training)
        return Output(features, self.classifier(dropped))


def picture(number: int) -> Sample:
    """A road below, a sky above, a car somewhere, the first pixels unlabelled."""
    rng = np.random.default_rng(number)
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[: rng.integers(10, 20)] = 1
    left = rng.integers(4, 40)
    labels[16:26, left : left + 16] = 2
    colours = np.array([[90, 90, 90], [120, 170, 230], [200, 40, 40]])
    image = (colours[labels] + rng.normal(0, 25, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
    labels[0, :3] = 255
    return Sample(f"picture_{number}", image, labels)


def pictures(numbers: range) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3)."""
    return np.stack([picture(number).image for number in numbers])


def write_pictures(folder: Path, numbers: range, masks: Path | None = None) -> None:
    """`<number>.png` below `folder`, and their labels of the same names below `masks`."""
    for kind in (folder, masks):
        if kind is not None:
            kind.mkdir()
    for number in numbers:
        sample = picture(number)
        Image.fromarray(sample.image).save(folder / f"{number}.png")
        if masks is not None:
            Image.fromarray(sample.labels).save(masks / f"{number}.png")


def train_little(steps: int = 60) -> LittleNet:
    torch.manual_seed(0)
    network = LittleNet()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(steps):
        samples = [picture(1000 + 4 * step + index) for index in range(4)]
        images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([sample.labels for sample in samples])).long()
        logits = F.interpolate(network(images).logits, size=SIZE, mode="bilinear")
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def contract_of(network: nn.Module, opset: int = 20, **sides: int | Range) -> Contract:
    """With other `batch`, `height` or `width` where given."""
    limits: dict[str, Any] = {
        "batch": Range(min=1, max=None),
        "height": SIZE[0],
        "width": SIZE[1],
        **sides,
    }
    return Contract(
        model="little",
        input=ImageInput(
            name="images",
            dtype="uint8",
            layout="NHWC",
            **limits,
        ),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=CLASSES,
        palette=[(90, 90, 90), (120, 170, 230), (200, 40, 40)],
        ignore_index=255,
        normalisation=NORMALISATION,
        geometry=Geometry(size=SIZE, fit="stretch"),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        opset=opset,
        weights_sha256="0" * 64,
        graphs={},
    )
