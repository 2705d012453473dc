from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_run import contract, write_project
from PIL import Image
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.files import read_json
from afdcd.models.output import SegOutput
from deploy.bundle import CONTRACT, write_model
from deploy.export import export
from deploy.maps import load_maps
from pipeline import paths, reference


class RedIsTheClass(nn.Module):
    """Logits that are highest at the class that the red channel names."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.arange(3.0).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> SegOutput:
        logits = -((images[:, :1] - self.classes) ** 2)
        return SegOutput(logits=logits, features=None, head_features=None, aux=None)


def test_every_test_image_goes_through_pytorch(
    tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, params_text)
    monkeypatch.chdir(tmp_path)
    plain = contract("teacher")
    exported = export(RedIsTheClass().eval(), plain.model_copy(update={"parameters": 3}))
    folder = paths.exported("teacher")
    folder.mkdir(parents=True)
    for name, content in exported.files.items():
        (folder / name).write_bytes(content)
    write_model(folder / CONTRACT, exported.contract)

    reference.main(["teacher"])
    maps = load_maps(paths.reference("teacher") / "predictions.npz")
    assert list(maps) == [f"test_{index}" for index in range(5)]
    for name, class_map in maps.items():
        assert np.array_equal(class_map, np.asarray(Image.open(f"data/prepared/mask/{name}.png")))
    score = read_json(paths.reference("teacher") / "score.json")
    assert score["miou"] == 1.0 and score["agreement"] is None and score["engine"] is None

    (folder / "reference.pt2").write_bytes(b"other")
    with pytest.raises(UserError, match="not the file that its manifest describes"):
        reference.main(["teacher"])
