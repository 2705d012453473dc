from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.segmenter import RGB, SegmenterContract, pictures

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter, build_segmenter

Narrow = Callable[..., ModelConfig]


def small(backbone: str, head: str, stride: int = 8, **options: Any) -> ModelConfig:
    return ModelConfig(
        backbone=backbone,
        backbone_options=options,
        output_stride=stride,
        head=head,
        head_channels=16,
        atrous_rates=(3, 6, 9),
        dropout=0.1,
        projection_dropout=0.5,
        auxiliary=True,
        pretrained="none",
        normalisation=RGB,
    )


CHANNELS = [8, 16, 32, 64]


class TestResNetDeepLabV3(SegmenterContract):
    config = small("resnet18", "deeplabv3", channels=CHANNELS, stem_width=8)


class TestResNetPSP(SegmenterContract):
    config = small("resnet18", "psp", channels=CHANNELS, stem_type="deep", stem_width=8)


class TestBottleneckAtStride16(SegmenterContract):
    config = small("resnet26", "deeplabv3", stride=16, channels=CHANNELS, stem_type="deep", stem_width=8)


class TestMobileNetDeepLabV3(SegmenterContract):
    config = small("mobilenetv2_035", "deeplabv3")


class TestMobileNetPSP(SegmenterContract):
    config = small("mobilenetv2_035", "psp", stride=32)


class TestPyramidTransformerSegFormer(SegmenterContract):
    """Its attention sees maps reduced by 8: free sizes must be multiples of 32."""

    multiple = 32
    config = small(
        *("pvt_v2_b0", "segformer"),
        stride=32,
        **{"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]},
    )


class TestMobileNetV3LRASPP(SegmenterContract):
    config = small("mobilenetv3_small_050", "lraspp", stride=16).model_copy(update={"head_channels": 40})


class TestResNetFCN(SegmenterContract):
    config = small("resnet18", "fcn", channels=CHANNELS, stem_width=8)


def test_heads_name_their_stride(narrow: Narrow) -> None:
    assert build_segmenter(narrow(), 5).stride == 8
    assert TestPyramidTransformerSegFormer.config.output_stride == 32
    assert build_segmenter(TestPyramidTransformerSegFormer.config, 5).stride == 4
    assert build_segmenter(TestMobileNetV3LRASPP.config, 5).stride == 8


def test_lraspp_needs_room_beside_the_fine_stage(narrow: Narrow) -> None:
    with pytest.raises(UserError, match="head_channels 16 leaves it none; take 144"):
        build_segmenter(narrow(head="lraspp"), 5)


def test_the_demo_teacher_is_a_narrower_resnet(narrow: Narrow) -> None:
    options = {"channels": [32, 64, 128, 256], "stem_width": 32}
    assert build_segmenter(narrow(backbone_options=options), 9).channels.features == (32, 64, 128, 256)


def test_normalisation_subtracts_mean_and_divides_by_deviation(network: Segmenter) -> None:
    images = pictures(1, 8, 8)
    values = network.normalise(images)
    for channel in range(3):
        expected = (images[:, channel].double() - RGB.mean[channel]) / RGB.std[channel]
        torch.testing.assert_close(values[:, channel].double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalisation_of_channels_last_images_gives_the_same_bits(narrow: Narrow, order: str) -> None:
    settings = RGB.model_copy(update={"order": order})
    normalise = build_segmenter(narrow(normalisation=settings), 5).normalise
    images = torch.randint(0, 256, (2, 3, 6, 10), dtype=torch.uint8)
    expected = normalise(images)
    found = normalise(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_is_settings_not_weights(network: Segmenter) -> None:
    assert not [name for name in network.state_dict() if name.startswith("normalise")]


@pytest.mark.parametrize("head", ["deeplabv3", "psp"])
def test_one_image_a_step_is_refused_in_training(narrow: Narrow, head: str) -> None:
    network = build_segmenter(narrow(head=head), 5)
    with pytest.raises(UserError, match="one image a step.*raise batch_size or micro_batch"):
        network(pictures(1, 32, 32))


def test_a_network_without_auxiliary_head_has_no_auxiliary_logits(narrow: Narrow) -> None:
    network = build_segmenter(narrow(auxiliary=False), 5)
    assert network(pictures(2, 32, 32)).aux is None


def test_same_seed_same_weights(narrow: Narrow) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_segmenter(narrow(), 5).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
