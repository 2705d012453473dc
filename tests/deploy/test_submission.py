from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.errors import UserError
from deploy.submission import LABEL_IDS, file_name, label_ids, write


def test_files_hold_label_ids_under_the_official_name(tmp_path: Path) -> None:
    classes = [name.replace(" ", "_") for name in LABEL_IDS]
    prediction = np.arange(19, dtype=np.uint8)[None].repeat(3, axis=0)
    path = write(tmp_path, "berlin_000000_000019_leftImg8bit", prediction, label_ids(classes))
    assert path.name == "berlin_000000_000019_pred_labelIds.png"
    with Image.open(path) as image:
        assert image.mode == "L"
        expected = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
        assert np.asarray(image)[1].tolist() == expected


def test_the_order_of_the_classes_is_the_engines() -> None:
    assert label_ids(["sky", "traffic light", "road"]).tolist() == [23, 19, 7]


@pytest.mark.parametrize("name", ["test/berlin/berlin_000000_000019_leftImg8bit", "berlin_000000_000019"])
def test_names_of_samples(name: str) -> None:
    assert file_name(name) == "berlin_000000_000019_pred_labelIds.png"


def test_others_are_refused() -> None:
    with pytest.raises(UserError, match="Cityscapes has no class 'boat'"):
        label_ids(["road", "boat"])
    with pytest.raises(UserError, match="not named as Cityscapes' images"):
        file_name("img_7")
