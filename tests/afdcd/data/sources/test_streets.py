"""The streets source: files, disjoint splits, processes that change nothing, options that are refused."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from contracts.source import SourceContract
from PIL import Image

from afdcd.data.sources import SOURCES
from afdcd.data.sources.streets import Streets, render_files, scene_seed
from afdcd.data.streets import CLASSES, PALETTES, render
from afdcd.errors import UserError
from afdcd.plugins import resolve

OPTIONS: dict[str, Any] = {
    "seed": 3,
    "size": (32, 64),
    "train": 5,
    "val": 2,
    "test": 3,
    "classes": 9,
    "difficulty": 0.5,
}


def make(**changes: Any) -> Streets:
    return Streets(Path("data/raw/streets"), **{**OPTIONS, **changes})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestStreets(SourceContract):
    def make(self, root: Path) -> Streets:
        return Streets(root, **{**OPTIONS, "train": 2, "val": 1, "test": 1, "size": (32, 32)})


def test_the_table_of_sources_leads_here() -> None:
    assert resolve(SOURCES, "streets", "dataset") is Streets


@pytest.mark.parametrize("classes", [9, 11])
def test_its_raw_ids_are_its_classes(classes: Literal[9, 11]) -> None:
    source = make(classes=classes)
    assert source.classes == CLASSES[classes] and source.palette == PALETTES[classes]
    assert source.valid_ids == frozenset(range(classes))
    assert source.label_map.tolist() == [*range(classes), *[255] * (256 - classes)]


def test_materialise_writes_what_samples_lists(tmp_path: Path) -> None:
    source, seen = make(), []
    source.materialise(tmp_path, seen.append)
    assert sum(seen) == source.total
    samples = list(source.samples(tmp_path))
    assert [s.split for s in samples] == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    listed = {p for s in samples for p in (s.image, s.mask)}
    assert listed == {p for p in tmp_path.rglob("*") if p.is_file()}
    assert samples[0].image == tmp_path / "images/train/00001.png"
    for place, sample in ((0, samples[0]), (2, samples[-1])):
        index = int(sample.name) - 1
        image, mask = render(scene_seed(3, place, index), size=(32, 64), difficulty=0.5, classes=9)
        assert sample.mask is not None
        assert np.array_equal(np.asarray(Image.open(sample.image)), image)
        assert np.array_equal(np.asarray(Image.open(sample.mask)), mask)


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    source = make(train=40, size=(32, 32))
    for name, processes in (("one", 1), ("two", 2)):
        seen: list[int] = []
        render_files(list(source._jobs(tmp_path / name)), processes=processes, progress=seen.append)
        assert sum(seen) == source.total
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_scene_numbers_never_meet() -> None:
    numbers = [scene_seed(s, p, i) for s in range(5) for p in range(3) for i in (0, 1, 799, 2**32 - 1)]
    assert len(set(numbers)) == len(numbers)


def test_splits_and_seeds_share_no_image(tmp_path: Path) -> None:
    for seed in (0, 1):
        make(seed=seed).materialise(tmp_path / str(seed), lambda done: None)
    images = [content for name, content in files(tmp_path).items() if "/images/" in name]
    assert len(images) == 20 and len(set(images)) == 20


def test_a_larger_count_keeps_the_scenes_that_were_there(tmp_path: Path) -> None:
    make().materialise(tmp_path / "few", lambda done: None)
    make(train=7).materialise(tmp_path / "more", lambda done: None)
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    assert few.items() < more.items()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": (16, 64)}, r"dataset\.options\.size is \[16, 64\]"),
        ({"size": (64, 9000)}, r"dataset\.options\.size"),
        ({"size": (64,)}, r"dataset\.options\.size"),
        ({"train": 0}, r"dataset\.options\.train is 0"),
        ({"val": -1}, r"dataset\.options\.val is -1"),
        ({"test": 2.5}, r"dataset\.options\.test is 2\.5"),
        ({"classes": 10}, r"dataset\.options\.classes is 10; valid: 9 and 11"),
        ({"difficulty": 1.2}, r"dataset\.options\.difficulty is 1\.2"),
        ({"difficulty": float("nan")}, r"dataset\.options\.difficulty is nan"),
        ({"difficulty": "hard"}, r"dataset\.options\.difficulty is 'hard'"),
        ({"seed": -1}, r"dataset\.seed is -1"),
    ],
)
def test_impossible_options_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**changes)


def test_a_list_from_yaml_is_a_size() -> None:
    assert make(size=[32, 64]).size == (32, 64)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"disk is full while writing .*00001\.png"):
        make().materialise(tmp_path, lambda done: None)


def test_an_error_in_a_process_reaches_the_caller(tmp_path: Path) -> None:
    jobs = list(make(train=40, size=(32, 32))._jobs(tmp_path))
    jobs[-1].sample.image.mkdir(parents=True)
    with pytest.raises((OSError, UserError), match=r"00003\.png"):
        render_files(jobs, processes=2, progress=lambda done: None)
