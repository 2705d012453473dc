from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from little_net import NORMALISATION, SIZE, LittleNet, picture
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from deploy.__main__ import main
from deploy.archive import save_program
from deploy.bundle import CLASS_MAP, read_contract

pytestmark = pytest.mark.xdist_group("little")

MEAN = ["--mean", *map(str, NORMALISATION.mean)]
STD = ["--std", *map(str, NORMALISATION.std)]


class Anyones(nn.Module):
    """A network that wants normalised values and gives a dictionary, as torchvision's do."""

    def __init__(self, little: LittleNet) -> None:
        super().__init__()
        self.little = little

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        plain = images * self.little.std + self.little.mean
        return {"out": self.little(plain).logits}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    for number in range(3):
        Image.fromarray(picture(number).image).save(tmp_path / "image" / f"{number}.png")
    return tmp_path


def write(
    folder: Path, network: nn.Module, channels: int = 3, free: bool = False, train: bool = False
) -> Path:
    shapes = (
        {0: Dim("n", max=8), 2: 8 * Dim("h8", min=2, max=12), 3: 8 * Dim("w8", min=2)}
        if free
        else {0: Dim("n")}
    )
    example = torch.zeros(2, channels, *SIZE)
    program = torch.export.export(network.train(train), (example,), dynamic_shapes=(shapes,))
    path = folder / "anyones.pt2"
    path.write_bytes(save_program(program))
    return path


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_anyones_program_becomes_an_exported_folder(
    folder: Path, little: LittleNet, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", str(write(folder, Anyones(little))), "--images", str(folder / "image")]
    out = ["--exported", str(folder / "exported")]
    assert "tells 3 classes apart, --classes names 2" in refused(capsys, *given, *out, "--classes", "a", "b")
    assert not (folder / "exported").exists()
    main([*given, *MEAN, *STD, *out, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["parity"]["agreement"] > 0.9999
    contract = read_contract(folder / "exported")
    assert contract.classes == ["class_0", "class_1", "class_2"] and contract.geometry.size == SIZE
    assert (contract.input.height, contract.input.width, contract.input.batch.max) == (*SIZE, None)
    bundle = folder / "bundle"
    wanted = ["--backend", "onnxruntime", "--precision", "fp32", "--bundle", str(bundle)]
    main(["build", str(folder / "exported"), *wanted])
    capsys.readouterr()
    main(
        [
            "parity",
            str(bundle),
            str(folder / "exported" / CLASS_MAP),
            "--images",
            str(folder / "image"),
            "--shape",
            "1x32x64x3",
            "--json",
        ]
    )
    assert json.loads(capsys.readouterr().out)["agreement"] == 1.0


def test_the_sizes_of_a_program_are_read_from_it(
    folder: Path, little: LittleNet, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", str(write(folder, Anyones(little), free=True)), "--images", str(folder / "image")]
    given += ["--exported", str(folder / "exported")]
    assert "say with --size" in refused(capsys, *given)
    main([*given, *MEAN, *STD, "--size", "32", "64", "--bgr"])
    assert "agreement" in capsys.readouterr().out
    found = read_contract(folder / "exported")
    assert found.input.batch.max == 8 and found.normalisation.order == "bgr"
    assert found.input.height == found.input.height.model_copy(update={"min": 16, "max": 96, "multiple": 8})


def test_what_is_no_network_of_images_is_refused(
    folder: Path, little: LittleNet, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--images", str(folder / "image"), "--exported", str(folder / "exported")]
    assert "cannot be read" in refused(capsys, "export", "nowhere.pt2", *given)
    path = write(folder, nn.Conv2d(4, 2, 1), channels=4)
    assert "needs a network of one input (B, 3, H, W)" in refused(capsys, "export", str(path), *given)
    path = write(folder, nn.Flatten())
    assert "no logits" in refused(capsys, "export", str(path), *given)
    program = torch.export.export(Anyones(little).eval(), (torch.zeros(1, 3, *SIZE),))
    torch.export.save(program, folder / "pickled.pt2")
    told = refused(capsys, "export", str(folder / "pickled.pt2"), *given)
    assert "pickled example inputs" in told and "save_program" in told
    assert not (folder / "exported").exists()


@pytest.mark.parametrize(
    ("layer", "named"),
    [(nn.BatchNorm2d(3), "batch_norm"), (nn.Dropout(0.1), "dropout"), (nn.Dropout2d(0.1), "feature_dropout")],
)
def test_a_program_in_training_mode_is_refused(
    layer: nn.Module, named: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(layer, nn.Conv2d(3, 2, 1))
    given = ["--images", str(folder / "image"), "--exported", str(folder / "exported")]
    told = refused(capsys, "export", str(write(folder, network, train=True)), *given)
    assert f"training mode: {named} (" in told and "call eval()" in told
    assert not (folder / "exported").exists()
    main(["export", str(write(folder, network)), *given])


def test_normalisation_by_the_batch_alone_is_no_training_mode(folder: Path) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1))
    given = ["--images", str(folder / "image"), "--exported", str(folder / "exported")]
    main(["export", str(write(folder, network)), *given])
