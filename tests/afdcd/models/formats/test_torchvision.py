from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign import assert_same, fitting, lively
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet
from torchvision.models.segmentation.fcn import _fcn_resnet

from afdcd.errors import UserError

CLASSES = ["road", "sky", "car"]


def tiny_resnet() -> ResNet:
    return ResNet(Bottleneck, [1, 1, 2, 2], replace_stride_with_dilation=[False, True, True])


@pytest.mark.parametrize("make", [_deeplabv3_resnet, _fcn_resnet])
def test_resnets_give_the_same_logits(make: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lively(make(tiny_resnet(), len(CLASSES), True))  # type: ignore[operator]
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    own = fitting(tmp_path / "theirs.pth", "torchvision", CLASSES)
    assert own.auxiliary is not None and own.config.backbone_options == {"layers": [1, 1, 2, 2]}
    assert_same(own, lambda pixels: theirs(pixels)["out"], own_size=False)
    stage = own.backbone(own.normalise(torch.zeros(1, 3, 65, 97)))[-2]
    expected = theirs.aux_classifier(stage)
    torch.testing.assert_close(own.auxiliary(stage), expected)


def test_lraspp_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"classifier.low_classifier.weight": torch.zeros(1)}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="lraspp reads its fine stage .* cannot be imported"):
        fitting(tmp_path / "theirs.pth", "torchvision", CLASSES)
