"""What every backbone with every head must satisfy."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from afdcd.config import ModelConfig, Normalisation
from afdcd.models.segmenter import Segmenter, build_segmenter
from deploy.complexity import measure

RGB = Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
SIZES = [(64, 96), (65, 97), (47, 81)]


def pictures(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


class SegmenterContract:
    """Inherit, and give `config` (narrow, with the auxiliary head, `pretrained: none`)."""

    config: ClassVar[ModelConfig]
    num_classes: ClassVar[int] = 5
    multiple: ClassVar[int] = 1
    """What the sides of a graph of free sizes are multiples of."""

    @pytest.fixture
    def network(self) -> Segmenter:
        torch.manual_seed(0)
        return build_segmenter(self.config, self.num_classes)

    @pytest.mark.parametrize("size", SIZES)
    def test_shapes_follow_channels_and_strides(self, network: Segmenter, size: tuple[int, int]) -> None:
        with torch.no_grad():
            output = network(pictures(2, *size))
        small = tuple(math.ceil(side / network.stride) for side in size)
        assert output.logits.shape == (2, self.num_classes, *small)
        assert output.aux.shape[:2] == output.logits.shape[:2]
        assert output.aux.shape[2:] == output.features[-2].shape[2:]
        assert output.head_features.shape == (2, self.config.head_channels, *small)
        assert output.head_features.shape[1] == network.channels.head_features
        assert tuple(stage.shape[1] for stage in output.features) == network.channels.features
        expected = [tuple(math.ceil(side / stride) for side in size) for stride in network.backbone.strides]
        assert [tuple(stage.shape[2:]) for stage in output.features] == expected
        assert network.channels.num_classes == self.num_classes

    def test_backward_reaches_every_parameter(self, network: Segmenter) -> None:
        output = network(pictures(2, 64, 64))
        (output.logits.square().mean() + output.aux.square().mean()).backward()
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert without == []

    def test_stop_leaves_later_fields_empty(self, network: Segmenter) -> None:
        network.eval()
        images = pictures(1, 48, 64)
        with torch.no_grad():
            whole, head, features = network(images), network(images, stop="head_features"), None
            features = network(images, stop="features")
        assert head.logits is None and head.aux is None
        assert torch.equal(head.head_features, whole.head_features)
        assert features.logits is None and features.aux is None and features.head_features is None
        assert all(map(torch.equal, features.features, whole.features))

    def test_classifier_reads_the_head_features(self, network: Segmenter) -> None:
        output = network(pictures(2, 48, 64))
        assert torch.equal(network.classifier(output.head_features), output.logits)

    def test_deployed_is_the_bare_network(self, network: Segmenter) -> None:
        bare = network.deployed()
        assert network.auxiliary is not None and network.training
        assert not bare.training and not bare.config.auxiliary
        assert not [name for name in bare.state_dict() if name.startswith("auxiliary")]
        again = Segmenter(bare.config, self.num_classes)
        assert set(again.state_dict()) == set(bare.state_dict())
        images = pictures(2, 48, 64)
        with torch.no_grad():
            expected = network.eval()(images)
            assert torch.equal(bare(images).logits, expected.logits)
        assert expected.aux is None

    def test_eval_is_deterministic_and_independent_of_the_batch(self, network: Segmenter) -> None:
        network.eval()
        images = pictures(3, 48, 64)
        with torch.no_grad():
            first, second = network(images).logits, network(images).logits
            alone = network(images[1:2]).logits
        assert torch.equal(first, second)
        torch.testing.assert_close(alone, first[1:2], rtol=1e-4, atol=1e-5)

    def test_uint8_and_float_agree(self, network: Segmenter) -> None:
        network.eval()
        images = pictures(1, 48, 64)
        with torch.no_grad():
            assert torch.equal(network(images).logits, network(images.float()).logits)

    def test_bgr_weights_see_the_channels_reversed(self, network: Segmenter) -> None:
        network.eval()
        turned = Normalisation(order="bgr", mean=RGB.mean, std=RGB.std)
        other = Segmenter(self.config.model_copy(update={"normalisation": turned}), self.num_classes).eval()
        other.load_state_dict(network.state_dict())
        images = pictures(1, 48, 64)
        with torch.no_grad():
            assert torch.equal(other(images).logits, network(images.flip(1)).logits)

    def test_exports_with_dynamic_batch_and_size(self, network: Segmenter) -> None:
        bare = network.deployed()
        least, most = (33, 512) if self.multiple == 1 else (2, 512 // self.multiple)
        height, width = (
            self.multiple * torch.export.Dim(name, min=least, max=most) for name in ("height", "width")
        )
        dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=8), 2: height, 3: width}}
        program = torch.export.export(bare, (pictures(2, 64, 96),), dynamic_shapes=dynamic)
        for shape in [(1, 64, 96), (3, 71, 45) if self.multiple == 1 else (3, 128, 96)]:
            images = pictures(*shape)
            with torch.no_grad():
                got, expected = program.module()(images), bare(images)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)

    def test_fvcore_counts_it(self, network: Segmenter) -> None:
        counted = measure(network.deployed(), (1, 3, 64, 64))
        # What fvcore adds, batch normalisation and resizing, weighs most in narrow networks at 64 x 64.
        assert counted.conv_gmacs <= counted.gmacs < 1.15 * counted.conv_gmacs
