from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes_source import Shapes

from afdcd import files
from afdcd.data.manifest import DatasetInfo
from afdcd.data.prepare import prepare
from afdcd.data.sources.camvid import CamVid
from afdcd.errors import UserError

COUNTS = {"train": 3, "val": 1, "test": 1}
WRITTEN = ["dataset.json", "manifest.jsonl"]


def quiet(what: str, total: int, done: int) -> None:
    pass


def prepare_camvid(root: Path, folder: Path) -> DatasetInfo:
    return prepare(CamVid(root, seed=0, partial=True), root=root, folder=folder, progress=quiet)


@pytest.fixture
def root(tmp_path, write_camvid) -> Path:
    return write_camvid(tmp_path / "camvid")


@pytest.fixture
def complaint(tmp_path, root):
    """Prepare the (spoilt) root and give the message; what stood in the folder before must survive."""

    def run() -> str:
        folder = tmp_path / "prepared"
        folder.mkdir()
        (folder / "old").write_text("kept")
        with pytest.raises(UserError) as caught:
            prepare_camvid(root, folder)
        assert [path.name for path in tmp_path.iterdir() if path != root] == ["prepared"]
        assert [path.name for path in folder.iterdir()] == ["old"]
        return str(caught.value)

    return run


def save_mask(path: Path, value: int, shape: tuple[int, ...] = (6, 8)) -> None:
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path)


def test_rendered_paths_start_from_the_folder_and_bytes_repeat(tmp_path) -> None:
    contents = []
    for name in ("one", "two"):
        source = Shapes(seed=0, size=(12, 20), counts=COUNTS)
        prepare(source, root=tmp_path / "unused", folder=tmp_path / name, progress=quiet)
        contents.append([(tmp_path / name / file).read_bytes() for file in WRITTEN])
    assert contents[0] == contents[1]
    first = json.loads(contents[0][1].splitlines()[0])
    assert first["image"] == "images/train_000.png"
    assert first["image_sha256"] == files.sha256(tmp_path / "one" / first["image"])
    assert first["mask_sha256"] == files.sha256(tmp_path / "one" / first["mask"])
    assert (first["height"], first["width"]) == (12, 20)


def test_found_paths_start_from_the_root(tmp_path, root) -> None:
    info = prepare_camvid(root, tmp_path / "prepared")
    assert info.root == str(root)
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == WRITTEN
    first = json.loads((tmp_path / "prepared/manifest.jsonl").read_text().splitlines()[0])
    assert first["image"] == "images/train/train0.jpg"


def test_pixels_are_counted_by_class(tmp_path, root) -> None:
    for number, mask in enumerate((np.zeros((6, 8)), np.zeros((6, 8)), np.zeros((6, 8)))):
        mask[0, :2] = 3
        mask[5, :5] = 11 if number else 2
        Image.fromarray(mask.astype(np.uint8)).save(root / f"masks/train/train{number}.png")
    info = prepare_camvid(root, tmp_path / "prepared")
    assert info.splits == {"train": 3, "val": 2, "test": 1}
    assert info.class_pixels["train"] == [3 * 48 - 6 - 15, 0, 5, 6, *[0] * 7]
    assert info.class_image_pixels["train"] == [144, 0, 48, 144, *[0] * 7]
    assert info.ignored_pixels["train"] == 10


def test_progress_counts_rendering_and_checking(tmp_path) -> None:
    seen: dict[str, int] = {}

    def count(what: str, total: int, done: int) -> None:
        assert total == 5
        seen[what] = seen.get(what, 0) + done

    source = Shapes(seed=0, size=(12, 20), counts=COUNTS)
    prepare(source, root=tmp_path, folder=tmp_path / "prepared", progress=count)
    assert seen == {"rendering": 5, "checking": 5}


def test_image_without_mask(root, complaint) -> None:
    (root / "masks/val/val1.png").unlink()
    expected = f"image {root}/images/val/val1.jpg has no mask: {root}/masks/val/val1.png is missing"
    assert expected in complaint()


def test_mask_without_image(root, complaint) -> None:
    (root / "images/val/val1.jpg").unlink()
    assert f"mask {root}/masks/val/val1.png has no image: {root}/images/val/val1.png (or .jpg)" in complaint()


def test_size_mismatch(root, complaint) -> None:
    save_mask(root / "masks/test/test0.png", 1, (6, 9))
    assert "sizes differ" in (message := complaint())
    assert "images/test/test0.jpg is 6x8" in message and "masks/test/test0.png is 6x9" in message


def test_label_out_of_range(root, complaint) -> None:
    save_mask(root / "masks/train/train1.png", 37)
    message = complaint()
    assert f"label 37 in {root}/masks/train/train1.png; this set has 11 classes" in message
    assert "(ids 0..10; 11, 255 ignored)" in message


def test_colour_mask(root, complaint) -> None:
    save_mask(root / "masks/train/train1.png", 1, (6, 8, 3))
    assert "masks/train/train1.png has mode RGB; class ids need one 8-bit channel" in complaint()


def test_sixteen_bit_image(root, complaint) -> None:
    (root / "images/train/train1.jpg").unlink()
    Image.fromarray(np.zeros((6, 8), dtype=np.uint16)).save(root / "images/train/train1.png")
    assert "images/train/train1.png has mode I;16; convert it to 8-bit RGB" in complaint()


def test_zero_byte_image(root, complaint) -> None:
    (root / "images/train/train2.jpg").write_bytes(b"")
    assert f"{root}/images/train/train2.jpg is empty (0 bytes)" in complaint()


@pytest.mark.parametrize("file", ["images/train/train2.jpg", "masks/train/train2.png"])
def test_truncated_file(root, complaint, file) -> None:
    noise = np.random.default_rng(0).integers(0, 11, (60, 80), dtype=np.uint8)
    Image.fromarray(noise).save(root / file)
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: len(content) * 2 // 3])
    assert f"{root / file} cannot be decoded" in complaint()


def test_file_that_may_not_be_read(root, complaint, monkeypatch) -> None:
    locked, read = root / "images/train/train2.jpg", Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert f"{locked} cannot be read: Permission denied" in complaint()


def test_text_file_named_as_an_image(root, complaint) -> None:
    (root / "images/train/train2.jpg").write_text("no picture")
    assert f"{root}/images/train/train2.jpg is no image that can be read" in complaint()


def test_empty_split_and_doubled_name(root, complaint) -> None:
    for part in ("images/test/test0.jpg", "masks/test/test0.png"):
        (root / part).unlink()
    Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(root / "images/val/val0.png")
    message = complaint()
    assert "the test split is empty" in message
    assert "2 images of the val split are named 'val0'; keep one" in message


def test_first_ten_faults_are_listed(root, complaint) -> None:
    for number in range(14):
        save_mask(root / f"masks/train/x{number:02d}.png", 0)
    message = complaint()
    assert message.startswith("camvid: mend 14 fault(s)")
    assert message.count("has no image") == 10 and message.endswith("and 4 more")


def test_train_split_without_a_labelled_pixel(root, complaint) -> None:
    for number in range(3):
        save_mask(root / f"masks/train/train{number}.png", 11)
    assert "no pixel of the train split is labelled" in complaint()


def test_full_disk_is_one_sentence_and_leaves_the_old_folder(complaint, monkeypatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("afdcd.data.prepare.write_json", full)
    assert "the disk is full while writing" in complaint()


def test_unlabelled_samples_need_no_mask(tmp_path) -> None:
    class PartlyLabelled(Shapes):
        def materialise(self, folder, progress):
            Shapes(seed=0, size=self.size, counts=self.counts).materialise(folder, progress)

        def samples(self, folder):
            for sample in super().samples(folder):
                yield sample._replace(mask=None) if sample.split == "extra" else sample

    source = PartlyLabelled(seed=0, size=(12, 20), counts={**COUNTS, "extra": 2})
    info = prepare(source, root=tmp_path, folder=tmp_path / "prepared", progress=quiet)
    assert info.splits["extra"] == 2 and sum(info.class_pixels["extra"]) == 0
    last = json.loads((tmp_path / "prepared/manifest.jsonl").read_text().splitlines()[-1])
    assert last["mask"] is None and last["mask_sha256"] is None
