from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from foreign import lively
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.fcn import _fcn_resnet

from afdcd.errors import UserError
from afdcd.models.store import import_checkpoint
from pipeline import configure, import_teacher, params


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = ResNet(Bottleneck, [1, 1, 2, 2], replace_stride_with_dilation=[False, True, True])
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save(lively(_fcn_resnet(backbone, 9, True)).state_dict(), path)
    return path


def test_the_printed_command_makes_the_file_the_teacher(
    file: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    import_teacher.main([str(file), "torchvision"])
    about, command = capsys.readouterr().out.splitlines()
    assert about.startswith(f"{file}: fcn on resnet50, 9 classes, ")
    overrides = [word for word in shlex.split(command)[3:] if not word.endswith("=...")]
    configure.write(overrides, tmp_path / "params.yaml")
    teacher = params.load(tmp_path / "params.yaml").teacher
    assert (teacher.checkpoint, teacher.format) == (str(file), "torchvision")
    assert teacher.model.backbone_options == {"layers": [1, 1, 2, 2]}
    network = import_checkpoint(file, teacher.model, [str(number) for number in range(9)], teacher.format)
    assert network.auxiliary is not None


def test_its_own_format_needs_no_command(file: Path) -> None:
    with pytest.raises(UserError, match="needs no settings .* the others are cirkd, smp, torchvision"):
        import_teacher.main([str(file), "afdcd"])
