"""The network: normalisation, backbone, head, classifier, and a training-only auxiliary head."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from afdcd.config import ModelConfig, Normalisation
from afdcd.models.backbone import Backbone
from afdcd.models.heads import HEADS
from afdcd.models.heads.blocks import FCNHead
from afdcd.models.output import ChannelSpec, SegOutput, Stop
from afdcd.models.pretrained import load_pretrained
from afdcd.plugins import resolve


class Normalise(nn.Module):
    """RGB in 0..255, uint8 or float, to what the backbone's weights expect.

    The figures are part of the configuration, not of the weights: the buffers are not saved.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Normalisation) -> None:
        super().__init__()
        self.bgr = settings.order == "bgr"
        self.register_buffer("mean", torch.tensor(settings.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(images - mean) / std of (B, 3, H, W), channels in the configured order."""
        values = images.to(self.mean.dtype)
        if self.bgr:
            # Slices and concatenation exist in every engine; a negative stride does not.
            values = torch.cat([values[:, 2:3], values[:, 1:2], values[:, 0:1]], dim=1)
        if _come_in_lines(images):
            return self._by_lines(values)
        return (values - self.mean) / self.std

    def _by_lines(self, values: Tensor) -> Tensor:
        """The same numbers, with figures as long as a line of pixels: torch is slow with three at a time."""
        batch, channels, height, width = values.shape
        mean, std = self.mean.flatten().repeat(width), self.std.flatten().repeat(width)
        lines = (values.permute(0, 2, 3, 1).reshape(batch, height, -1) - mean) / std
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _come_in_lines(images: Tensor) -> bool:
    """Whether these are images of a training on the CPU, channels last; graphs keep the plain form."""
    of_bytes = images.dtype == torch.uint8 and images.is_contiguous(memory_format=torch.channels_last)
    return of_bytes and images.is_cpu and not torch.compiler.is_compiling()


class Segmenter(nn.Module):
    """A timm backbone with a segmentation head.

    Attributes:
        config: what it was built from.
        channels: channel counts of its outputs.
        stride: that of its logits and head features, in input pixels; finer than the last stage's with some.
        auxiliary: the training-only head on the second-to-last stage, or None.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Build with random weights; `build_segmenter` also loads pretrained ones.

        Raises:
            UserError: the backbone cannot be built as asked.
        """
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.normalisation)
        self.backbone = Backbone(config.backbone, config.backbone_options, config.output_stride)
        stages = self.backbone.channels
        self.head = resolve(HEADS, config.head, "head")(stages, config)
        self.stride: int = self.backbone.strides[self.head.stage]
        self.classifier = nn.Conv2d(config.head_channels, num_classes, 1)
        self.auxiliary = FCNHead(stages[-2], num_classes, config.dropout) if config.auxiliary else None
        self.channels = ChannelSpec(stages, config.head_channels, num_classes)

    def forward(self, images: Tensor, *, stop: Stop = "logits") -> SegOutput:
        """Run as far as `stop`; the auxiliary head runs in training mode only.

        Args:
            images: (B, 3, H, W), RGB, uint8 or float in 0..255.
            stop: the last field that is needed; later ones are None.

        Returns:
            Logits (B, K, h, w) at `stride`, the stages, the classifier's input, auxiliary logits.
        """
        features = self.backbone(self.normalise(images))
        if stop == "features":
            return SegOutput(None, features, None, None)
        head_features = self.head(features)
        if stop == "head_features":
            return SegOutput(None, features, head_features, None)
        aux = self.auxiliary(features[-2]) if self.auxiliary is not None and self.training else None
        return SegOutput(self.classifier(head_features), features, head_features, aux)

    def deployed(self) -> Segmenter:
        """A copy in eval mode without the auxiliary head: the network as it ships."""
        bare = copy.deepcopy(self)
        bare.auxiliary = None
        bare.config = self.config.model_copy(update={"auxiliary": False})
        return bare.eval()


def build_segmenter(config: ModelConfig, num_classes: int) -> Segmenter:
    """A new network; the head's weights come from torch's global random state.

    Raises:
        UserError: an unknown backbone or option, an impossible stride, weights missing or not fitting.
    """
    network = Segmenter(config, num_classes)
    load_pretrained(network.backbone, config)
    return network
