"""A little network under the names of segmentation-models-pytorch, of our own code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign import assert_same, fitting, lively
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import ASPP

CLASSES = ["road", "sky", "car"]
WIDTH = 8


class Encoder(ResNet):
    """Strides of the last stages become dilation of all their convolutions, the first block's too."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [1, 1, 2, 2])
        del self.fc
        for stage, rate in ((self.layer3, 2), (self.layer4, 4)):
            for module in stage.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride, module.dilation = (1, 1), (rate, rate)
                    module.padding = (module.kernel_size[0] // 2 * rate,) * 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        block = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
        self.decoder = nn.Sequential(ASPP(2048, [12, 24, 36], WIDTH), *block)
        self.segmentation_head = nn.Sequential(nn.Conv2d(WIDTH, len(CLASSES), 1), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.segmentation_head(self.decoder(self.encoder(x)))
        return out


@pytest.mark.parametrize("renamed", [False, True], ids=["numbers", "names"])
def test_the_same_logits(renamed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lively(Foreign())
    state = theirs.state_dict()
    if renamed:
        for old, new in (
            ("decoder.0.", "decoder.aspp."),
            ("decoder.1.", "decoder.conv."),
            ("decoder.2.", "decoder.bn."),
        ):
            state = {
                name.replace(old, new, 1) if name.startswith(old) else name: x for name, x in state.items()
            }
    torch.save(state, tmp_path / "theirs.pth")
    own = fitting(tmp_path / "theirs.pth", "smp", CLASSES)
    assert own.config.backbone_options == {"layers": [1, 1, 2, 2], "dilate_whole_stages": True}
    assert own.auxiliary is None
    assert_same(own, theirs, own_size=True)
