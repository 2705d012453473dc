"""What tests of foreign checkpoints share: settings read off the file, random statistics, equal logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from contracts.segmenter import RGB, pictures
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.config import ModelConfig
from afdcd.models.formats.reading import read_foreign
from afdcd.models.segmenter import Segmenter
from afdcd.models.store import import_checkpoint

PLAIN = ModelConfig(
    backbone="resnet18",
    backbone_options={},
    output_stride=8,
    head="deeplabv3",
    head_channels=16,
    atrous_rates=(12, 24, 36),
    dropout=0.1,
    projection_dropout=0.5,
    auxiliary=True,
    pretrained="none",
    normalisation=RGB,
)


def lively(network: Any) -> Any:
    """Random statistics and biases: a norm that was mapped to another's place must show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def settings(path: Path, form: str) -> ModelConfig:
    return PLAIN.model_copy(update=read_foreign(path, form).settings)


def fitting(path: Path, form: str, classes: Sequence[str]) -> Segmenter:
    return import_checkpoint(path, settings(path, form), classes, form)


def assert_same(own: Segmenter, theirs: Callable[[Tensor], Tensor], *, own_size: bool) -> None:
    """Equal logits on pixels that `theirs` gets normalised by hand; at its stride or the image's."""
    images = pictures(1, 65, 97)
    wanted = own.config.normalisation
    pixels = images.float().flip(1) if wanted.order == "bgr" else images.float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (wanted.mean, wanted.std))
    with torch.no_grad():
        found, expected = own(images).logits, theirs((pixels - mean) / std)
        if not own_size:
            found = F.interpolate(found, size=images.shape[2:], mode="bilinear", align_corners=False)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
