from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from afdcd.config import ModelConfig, Normalisation
from afdcd.models.segmenter import Segmenter
from deploy.complexity import conv_gmacs, count_parameters, measure
from pipeline.complexity import WithAuxiliary

CITYSCAPES = (1, 3, 1024, 2048)
DEEP_STEM = {"stem_type": "deep", "stem_width": 64}


def published(
    backbone: str, options: dict[str, Any], head: str, width: int, *, auxiliary: bool
) -> ModelConfig:
    return ModelConfig(
        backbone=backbone,
        backbone_options=options,
        output_stride=8,
        head=head,
        head_channels=width,
        atrous_rates=(12, 24, 36),
        dropout=0.1,
        projection_dropout=0.5,
        auxiliary=auxiliary,
        pretrained="none",
        normalisation=Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    )


# Configuration; parameters in 1e6 and GMACs as trained; GMACs as deployed. Source: the released networks,
# counted on shapes (convolutions and matrix products; dilation does not change a count).
PUBLISHED = {
    "deeplabv3_r101": (
        published("resnet101", DEEP_STEM, "deeplabv3", 256, auxiliary=True),
        61.12,
        2063.3,
        1990,
    ),
    "deeplabv3_r18": (published("resnet18", DEEP_STEM, "deeplabv3", 128, auxiliary=True), 13.61, 517.5, 513),
    "deeplabv3_mbv2": (published("mobilenetv2_100", {}, "deeplabv3", 128, auxiliary=False), 3.23, 106.5, 107),
    "psp_r18": (published("resnet18", DEEP_STEM, "psp", 128, auxiliary=True), 12.92, 488.5, 484),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_networks_have_their_size(name: str) -> None:
    config, parameters, trained, deployed = PUBLISHED[name]
    with torch.device("meta"):
        network = Segmenter(config, 19).eval()
    assert count_parameters(network) / 1e6 == pytest.approx(parameters, rel=0.005)
    assert conv_gmacs(WithAuxiliary(network), CITYSCAPES) == pytest.approx(trained, rel=0.02)
    assert conv_gmacs(network.deployed(), CITYSCAPES) == pytest.approx(deployed, rel=0.02)


def test_the_teachers_stem_is_the_one_with_imagenet_weights() -> None:
    config, *_ = PUBLISHED["deeplabv3_r101"]
    with torch.device("meta"):
        one = Segmenter(config, 19)
        other = Segmenter(config.model_copy(update={"backbone": "resnet101s", "backbone_options": {}}), 19)
    shapes = [{name: tensor.shape for name, tensor in n.state_dict().items()} for n in (one, other)]
    assert shapes[0] == shapes[1]


def test_both_counters_on_known_layers() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sigmoid(),
    )
    counted = measure(module, (1, 3, 10, 12))
    convolution = 10 * 12 * 4 * 3 * 9
    assert counted.parameters == 3 * 4 * 9 + 2 * 4
    assert counted.conv_gmacs == convolution / 1e9
    # Batch normalisation in eval mode: one scale and one shift a value.
    assert counted.gmacs == (convolution + 2 * 10 * 12 * 4) / 1e9
    assert counted.counted_as_zero == ("sigmoid",)


def test_the_module_keeps_its_weights_and_mode() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).train()
    before = module[0].weight.clone()
    measure(module, (1, 3, 8, 8))
    assert module.training
    assert torch.equal(module[0].weight, before)


def test_it_prints_nothing() -> None:
    program = (
        "from torch import nn; from deploy.complexity import measure;"
        "measure(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.MaxPool2d(2)), (1, 3, 8, 8))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


class Attention(nn.Module):
    """Two heads of 8 channels over all cells of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = images.flatten(2).transpose(1, 2)[:, None, :, :1].expand(-1, 2, -1, 8)
        return nn.functional.scaled_dot_product_attention(cells, cells[:, :, :5], cells[:, :, :5])


def test_fused_attention_is_counted() -> None:
    counted = measure(Attention(), (1, 3, 4, 6))
    assert counted.gmacs == counted.conv_gmacs == 2 * 24 * 5 * (8 + 8) / 1e9
