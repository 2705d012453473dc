"""What every data source must satisfy; a test class of a source inherits SourceContract and makes one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.data.masks import COLOUR_MODES, ID_MODES, raw_ids
from afdcd.data.sources import SPLITS, Source


class SourceContract:
    def make(self, root: Path) -> Source:
        """A small source; files that it only finds are put under `root` first."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return self.make(tmp_path / "root")

    def test_classes_have_a_colour_and_a_raw_id_each(self, source: Source) -> None:
        classes = len(source.classes)
        assert len(set(source.classes)) == len(set(source.palette)) == len(source.palette) == classes
        assert np.array(source.palette).min() >= 0 and np.array(source.palette).max() <= 255
        assert source.label_map.shape == (256,) and source.label_map.dtype == np.uint8
        assert set(source.label_map.tolist()) - {255} == set(range(classes))

    def test_ids_that_lead_to_a_class_are_valid(self, source: Source) -> None:
        assert set(np.flatnonzero(source.label_map != 255).tolist()) <= source.valid_ids
        assert source.valid_ids <= set(range(256))

    def test_says_what_one_may_do_with_it(self, source: Source) -> None:
        assert source.name.isidentifier() and source.licence

    def test_samples_are_named_once_and_repeat(self, source: Source, tmp_path: Path) -> None:
        samples = list(source.samples(tmp_path))
        assert {sample.split for sample in samples} >= set(SPLITS)
        assert len({(sample.split, sample.name) for sample in samples}) == len(samples)
        assert samples == list(source.samples(tmp_path))
        assert source.total in (0, len(samples))

    def test_files_hold_valid_ids_at_the_size_of_the_image(self, source: Source, tmp_path: Path) -> None:
        folder = tmp_path / "rendered"
        folder.mkdir()
        done: list[int] = []
        source.materialise(folder, done.append)
        assert sum(done) == source.total
        for sample in source.samples(folder):
            with Image.open(sample.image) as image:
                assert image.mode == "RGB"
            if sample.mask is not None:
                with Image.open(sample.mask) as mask:
                    assert mask.mode in (ID_MODES if source.mask_colours is None else COLOUR_MODES)
                    assert mask.size == image.size
                    assert set(np.unique(raw_ids(mask, source.mask_colours)).tolist()) <= source.valid_ids

    def test_rendering_repeats_byte_for_byte(self, source: Source, tmp_path: Path) -> None:
        hashes = []
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            source.materialise(folder, lambda done: None)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            hashes.append(
                {path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files}
            )
        assert hashes[0] == hashes[1]
        assert bool(hashes[0]) == bool(source.total)
