"""What every backend must satisfy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from little_net import CLASSES, SIZE, picture, pictures

from afdcd.errors import UserError
from afdcd.metrics import agreement
from deploy.bundle import Contract
from deploy.sessions import Session, open_session

ENGINE_SUFFIXES = (".onnx", ".pt2", ".xml", ".bin")


class SessionContract:
    """Inherit, give `target` (known to the fixture `bundle`) and `threads_of`; mark as group "little"."""

    target: ClassVar[str]
    batch: ClassVar[str] = "B"
    """What a refusal calls the number of images that the engine takes."""

    def threads_of(self, session: Session) -> int:
        """The CPU threads that the open engine really uses."""
        raise NotImplementedError

    @pytest.fixture
    def folder(self, bundle: Callable[[str], Path]) -> Path:
        return bundle(self.target)

    @pytest.fixture
    def session(self, folder: Path) -> Iterator[Session]:
        with open_session(folder, threads=1) as session:
            yield session

    def test_it_recognises_what_the_network_learnt(self, session: Session) -> None:
        sample = picture(500)
        known = sample.labels != 255
        assert agreement(session.infer(sample.image[None])[0][known], sample.labels[known]) > 0.9

    @pytest.mark.parametrize("batch", [1, 3])
    def test_shapes_and_types_at_any_batch(self, session: Session, batch: int) -> None:
        images = pictures(range(batch))
        class_map, logits = session.infer(images), session.logits(images)
        assert (class_map.dtype, class_map.shape) == (np.uint8, (batch, *SIZE))
        assert (logits.dtype, logits.shape) == (np.float32, (batch, len(CLASSES), *SIZE))

    def test_images_of_a_batch_do_not_touch_each_other(self, session: Session) -> None:
        images = pictures(range(3))
        single = np.concatenate([session.infer(image[None]) for image in images])
        assert agreement(session.infer(images), single) > 0.9999

    def test_the_class_map_is_the_argmax_of_the_logits(self, session: Session) -> None:
        images = pictures(range(2))
        assert agreement(session.infer(images), session.logits(images).argmax(axis=1)) > 0.9999

    def test_views_give_what_their_copies_give(self, session: Session) -> None:
        images = pictures(range(4))
        for view in (images[::2], images[:2, :, ::-1], images[:2, ..., ::-1]):
            assert not view.flags.c_contiguous
            np.testing.assert_array_equal(session.infer(view), session.infer(np.ascontiguousarray(view)))

    def test_images_that_may_not_be_written_to_are_taken(self, session: Session) -> None:
        images = pictures(range(1))
        images.setflags(write=False)
        assert session.infer(images).shape == (1, *SIZE)

    @pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
    def test_another_dtype_is_refused(self, session: Session, dtype: type) -> None:
        with pytest.raises(UserError, match=rf"takes uint8 images.*got {dtype.__name__}"):
            session.infer(pictures(range(1)).astype(dtype))

    @pytest.mark.parametrize(
        "shape", [(*SIZE, 3), (1, 3, *SIZE), (1, SIZE[0] + 8, SIZE[1], 3), (1, *SIZE, 4), (0, *SIZE, 3)]
    )
    def test_another_shape_is_refused(self, session: Session, shape: tuple[int, ...]) -> None:
        expected = rf"\({self.batch}, {SIZE[0]}, {SIZE[1]}, 3\), got \({', '.join(map(str, shape))}\)"
        for call in (session.infer, session.logits, session.compute_ms):
            with pytest.raises(UserError, match=expected):
                call(np.zeros(shape, dtype=np.uint8))

    def compute_ms(self, session: Session, images: npt.NDArray[np.uint8]) -> float:
        """The least of a few runs of the engine alone."""
        took = [session.compute_ms(images) for _ in range(7)]
        assert all(isinstance(ms, float) and ms > 0 for ms in took)
        return min(ms for ms in took if ms is not None)

    def test_compute_time_is_of_the_engines_run(self, session: Session) -> None:
        images = pictures(range(4))
        calls = []
        session.infer(images)
        for _ in range(7):
            start = time.perf_counter()
            session.infer(images)
            calls.append(1000 * (time.perf_counter() - start))
        assert 0.1 * min(calls) < self.compute_ms(session, images) < 3 * min(calls)

    def test_compute_time_leaves_out_what_comes_before(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, admit = pictures(range(1)), Contract.admit

        def slow(contract: Contract, given: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            time.sleep(0.2)
            return admit(contract, given)

        monkeypatch.setattr(Contract, "admit", slow)
        assert self.compute_ms(session, images) < 200

    def test_timing_an_engine_changes_no_answer(self, session: Session) -> None:
        first, second = pictures(range(2)), pictures(range(5, 7))
        wanted = session.infer(first), session.infer(second)
        kept = first.copy()
        first.setflags(write=False)
        for images in (first, second, first[:1], first):
            session.compute_ms(images)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(session.infer(second), wanted[1])
        np.testing.assert_array_equal(session.infer(first), wanted[0])
        np.testing.assert_array_equal(session.logits(first), session.logits(kept))

    @pytest.mark.parametrize("threads", [1, 2])
    def test_it_runs_on_the_threads_asked_for(self, folder: Path, threads: int) -> None:
        with open_session(folder, threads=threads) as session:
            assert self.threads_of(session) == threads

    def test_it_cannot_be_used_after_it_was_closed(self, folder: Path) -> None:
        with open_session(folder, threads=1) as session:
            session.infer(pictures(range(1)))
            session.compute_ms(pictures(range(1)))
        for call in (session.infer, session.logits, session.compute_ms):
            with pytest.raises(RuntimeError, match="closed"):
                call(pictures(range(1)))

    def test_an_altered_file_is_refused_before_it_is_loaded(self, folder: Path) -> None:
        file = next(file for file in sorted(folder.iterdir()) if file.suffix in ENGINE_SUFFIXES)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{file.name} is not the file that its manifest describes"):
            open_session(folder, threads=1)

    def test_a_missing_file_is_named(self, folder: Path) -> None:
        file = next(file for file in sorted(folder.iterdir()) if file.suffix in ENGINE_SUFFIXES)
        file.unlink()
        with pytest.raises(UserError, match=rf"{file.name} is missing"):
            open_session(folder, threads=1)
