"""A little network under the names of the released files, of our own code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from foreign import assert_same, fitting, lively, settings
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from afdcd.errors import UserError

CLASSES = ["road", "sky", "car"]
WIDTH = 8


def unit(inputs: int, outputs: int, kernel: int, dilation: int = 1, stride: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class Branch(nn.Module):
    """A branch whose layers lie in an attribute of the released name."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        (only,) = self.children()
        out: Tensor = only(x)
        return out


class Pyramid(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.b0 = nn.Sequential(*unit(inputs, WIDTH, 1))
        self.b1, self.b2, self.b3 = (Branch("block", *unit(inputs, WIDTH, 3, rate)) for rate in (12, 24, 36))
        self.b4 = Branch("gap", nn.AdaptiveAvgPool2d(1), *unit(inputs, WIDTH, 1))
        self.project = nn.Sequential(*unit(5 * WIDTH, WIDTH, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.b0(x), self.b1(x), self.b2(x), self.b3(x)]
        pooled = F.interpolate(self.b4(x), x.shape[2:], mode="bilinear", align_corners=True)
        out: Tensor = self.project(torch.cat([*parts, pooled], 1))
        return out


class Stages(nn.Module):
    """A dilated ResNet with three convolutions as its stem, named one by one or as a sequence."""

    def __init__(self, sequence: bool) -> None:
        super().__init__()
        whole = ResNet(Bottleneck, [1, 1, 2, 2], replace_stride_with_dilation=[False, True, True])
        whole.inplanes, whole.dilation = 128, 1
        whole.layer1 = whole._make_layer(Bottleneck, 64, 1)
        first, second, third = unit(3, 64, 3, stride=2), unit(64, 64, 3), unit(64, 128, 3)
        if sequence:
            self.conv1: nn.Module = nn.Sequential(*first, *second, third[0])
            self.bn1 = third[1]
        else:
            (self.conv1, self.bn1, _), (self.conv2, self.bn2, _), (self.conv3, self.bn3, _) = (
                first,
                second,
                third,
            )
        self.sequence = sequence
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            whole.layer1,
            whole.layer2,
            whole.layer3,
            whole.layer4,
        )
        self.fc = nn.Linear(2048, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.sequence:
            x = F.relu(self.bn1(self.conv1(x)))
        else:
            x = F.relu(self.bn1(self.conv1(x)))
            x = F.relu(self.bn2(self.conv2(x)))
            x = F.relu(self.bn3(self.conv3(x)))
        third = self.layer3(self.layer2(self.layer1(F.max_pool2d(x, 3, 2, 1))))
        return third, self.layer4(third)


class Released(nn.Module):
    def __init__(self, sequence: bool) -> None:
        super().__init__()
        self.pretrained = Stages(sequence)
        self.head = nn.Module()
        self.head.aspp = Pyramid(2048)
        self.head.block = nn.Sequential(
            *unit(WIDTH, WIDTH, 3), nn.Dropout(0.1), nn.Conv2d(WIDTH, len(CLASSES), 1)
        )
        classifier = nn.Conv2d(256, len(CLASSES), 1)
        self.auxlayer = Branch("block", *unit(1024, 256, 3), nn.Dropout(0.1), classifier)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head.block(self.head.aspp(self.pretrained(x)[1]))
        return out


@pytest.fixture(params=[False, True], ids=["named", "sequence"])
def theirs(request: pytest.FixtureRequest) -> Released:
    torch.manual_seed(0)
    found: Released = lively(Released(request.param))
    return found


def test_released_names_give_the_same_logits(theirs: Released, tmp_path: Path) -> None:
    state = {f"module.{name}": x for name, x in theirs.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    own = fitting(tmp_path / "theirs.pth", "cirkd", CLASSES)
    assert own.config.normalisation.order == "bgr" and own.config.normalisation.std == (1.0, 1.0, 1.0)
    assert_same(own, theirs, own_size=True)
    images = torch.zeros(1, 3, 65, 97)
    with torch.no_grad():
        normalised = own.normalise(images)
        torch.testing.assert_close(
            own.auxiliary(own.backbone(normalised)[-2]),
            theirs.auxlayer(theirs.pretrained(normalised)[0]),
            rtol=1e-3,
            atol=1e-3,
        )


def test_what_does_not_fit_is_named_with_the_nearest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Released(True).state_dict()
    state["head.aspp.project.O.weight"] = state.pop("head.aspp.project.0.weight")
    torch.save(state, tmp_path / "odd.pth")
    said = r"head.aspp.project.0.weight is missing \(the file has head.aspp.project.O.weight\)"
    with pytest.raises(UserError, match=said):
        fitting(tmp_path / "odd.pth", "cirkd", CLASSES)


def test_other_settings_are_refused_with_the_command(tmp_path: Path) -> None:
    from afdcd.models.store import import_checkpoint

    torch.manual_seed(0)
    torch.save(Released(True).state_dict(), tmp_path / "theirs.pth")
    right = settings(tmp_path / "theirs.pth", "cirkd")
    rgb = right.normalisation.model_copy(update={"order": "rgb"})
    with pytest.raises(UserError, match="has normalisation .*'bgr'.* say .*'rgb'.*pipeline.import_teacher"):
        import_checkpoint(
            tmp_path / "theirs.pth", right.model_copy(update={"normalisation": rgb}), CLASSES, "cirkd"
        )
    with pytest.raises(UserError, match="has 3 classes, the data have 2"):
        import_checkpoint(tmp_path / "theirs.pth", right, CLASSES[:2], "cirkd")


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


@pytest.mark.parametrize("form", ["cirkd", "smp", "torchvision"])
def test_a_file_that_asks_to_run_code_is_refused(form: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "bad.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"state_dict": Malicious(mark)}))
    with pytest.raises(UserError, match="asks to run code"):
        settings(path, form)
    torch.save({"state_dict": Malicious(mark)}, path)
    with pytest.raises(UserError, match="asks to run code"):
        settings(path, form)
    assert not mark.exists()


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"not of format smp .* holds features.0.weight"):
        settings(tmp_path / "x.pth", "smp")
    torch.save({"head.psp.conv1.0.weight": torch.zeros(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="PSPNet of format cirkd"):
        settings(tmp_path / "x.pth", "cirkd")
    with pytest.raises(UserError, match="did you mean 'torchvision'"):
        settings(tmp_path / "x.pth", "torchvison")
