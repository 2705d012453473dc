"""The runner on an imaginary GPU: what it does, in which order, and what it gives back."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from contracts.session import SessionContract
from fake_gpu import FakeGpu
from little_net import SIZE, pictures

from afdcd.errors import UserError
from afdcd.files import read_json, sha256, write_json
from deploy.build import rebuild
from deploy.bundle import MANIFEST, verify
from deploy.sessions import Session, open_session
from deploy.sessions.capability import capability
from deploy.sessions.tensorrt import TensorRtSession
from deploy.tensorrt.bindings import load, load_for_gpu
from deploy.tensorrt.engine import Lane
from deploy.tensorrt.key import PLANS, TIMING
from deploy.tensorrt.memory import open_memory

pytestmark = pytest.mark.xdist_group("little")


@pytest.mark.usefixtures("tensorrt")
class TestTensorRt(SessionContract):
    target: ClassVar[str] = "trt_fp32"
    batch: ClassVar[str] = "1..8"

    @pytest.fixture
    def library(self) -> str:
        """What moves memory changes nothing here; the tests below use both."""
        return "cuda_python"

    def threads_of(self, session: Session) -> int:
        return cast(TensorRtSession, session)._pool("class_map.onnx").threads

    def test_compute_time_is_of_the_engines_run(self, session: Session) -> None:
        """By the clock of the imaginary GPU, which knows what lay between its two events."""
        assert self.compute_ms(session, pictures(range(4))) == 1.5


def test_everything_is_given_back(tensorrt: Any, gpu: FakeGpu, bundle: Callable[[str], Path]) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        for count in (1, 2, 1):
            session.infer(pictures(range(count)))
        session.logits(pictures(range(1)))
        assert gpu.left()
    assert not gpu.left()


def test_graphs_run_where_the_library_has_them(
    tensorrt: Any, gpu: FakeGpu, library: str, bundle: Callable[[str], Path]
) -> None:
    folder = bundle("trt_fp32")
    gpu.launches = 0
    with open_session(folder, threads=1) as session:
        images = pictures(range(2))
        results = [session.infer(images), session.infer(images), session.infer(images[::-1])]
        np.testing.assert_array_equal(results[2], results[0][::-1])
        assert not np.array_equal(results[0][0], results[0][1]), "what a stream had not done yet was read"
        pool = cast(TensorRtSession, session)._pool("class_map.onnx")
        assert pool.captured() is (library == "cuda_python")
    assert gpu.launches == (3 if library == "cuda_python" else 0)


def test_results_are_arrays_of_their_own(tensorrt: Any, bundle: Callable[[str], Path]) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        first = session.infer(pictures(range(1)))
        kept = first.copy()
        session.infer(pictures(range(5, 6)))
        np.testing.assert_array_equal(first, kept)


def test_lanes_of_old_shapes_make_room(tensorrt: Any, gpu: FakeGpu, bundle: Callable[[str], Path]) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        for count in (1, 2, 3, 4, 5, 6, 1):
            assert session.infer(pictures(range(count))).shape == (count, *SIZE)
        assert len(gpu.device) == 4 * 2


def test_threads_share_an_engine(tensorrt: Any, gpu: FakeGpu, bundle: Callable[[str], Path]) -> None:
    folder = bundle("trt_fp32")
    with open_session(folder, threads=2) as session:
        expected = {number: session.infer(pictures(range(number, number + 1))) for number in range(6)}
        wrong: list[int] = []

        def call(number: int) -> None:
            for _ in range(5):
                if not np.array_equal(session.infer(pictures(range(number, number + 1))), expected[number]):
                    wrong.append(number)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert 1 <= len(gpu.device) / 2 <= 2
    assert not gpu.left()


def test_a_lane_serves_one_call_at_a_time(
    tensorrt: Any, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(bundle("trt_fp32"), threads=2) as session:
        session.infer(pictures(range(1)))  # one lane is there, and two calls will want it
        together, used = threading.Barrier(2, timeout=20), []
        original = Lane.__call__

        def call(lane: Lane, images: Any) -> Any:
            used.append(lane)
            together.wait()
            return original(lane, images)

        monkeypatch.setattr(Lane, "__call__", call)
        threads = [threading.Thread(target=session.infer, args=(pictures(range(1)),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(used) == 2 and used[0] is not used[1]


def test_a_shape_outside_the_profile_is_refused_with_tensorrts_words(
    tensorrt: Any, gpu: FakeGpu, bundle: Callable[[str], Path]
) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        pool = cast(TensorRtSession, session)._pool("class_map.onnx")
        with pytest.raises(UserError, match=r"takes no input images of shape \(9, .*outside the profile"):
            pool.run(np.zeros((9, *SIZE, 3), np.uint8))
    assert not gpu.left()


def test_more_images_than_the_plan_takes_are_refused_with_the_range(
    tensorrt: Any, bundle: Callable[[str], Path]
) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        assert session.contract.input.batch.max == 8
        with pytest.raises(UserError, match=r"\(1\.\.8, 32, 64, 3\), got \(9, 32, 64, 3\)"):
            session.infer(pictures(range(9)))


def test_a_gpu_without_memory_is_one_sentence_and_leaves_nothing(
    tensorrt: Any, gpu: FakeGpu, bundle: Callable[[str], Path]
) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        gpu.limit = 1000
        with pytest.raises(UserError, match=r"refused \w+ \(.*out of memory\); free memory of the GPU"):
            session.infer(pictures(range(1)))
        gpu.limit = 1 << 30
        assert session.infer(pictures(range(1))).shape == (1, *SIZE)
    assert not gpu.left()


def test_work_that_fails_is_told_with_tensorrts_words(
    tensorrt: Any, gpu: FakeGpu, library: str, bundle: Callable[[str], Path]
) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        tensorrt.made[-1].failing = True
        with pytest.raises(UserError, match="cannot run little's class_map.onnx: an illegal memory access"):
            session.infer(pictures(range(1)))
    assert not gpu.left()


def test_the_gpus_time_leaves_copies_out(tensorrt: Any, bundle: Callable[[str], Path]) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        assert session.compute_ms(pictures(range(1))) == 1.5


def test_a_lane_that_failed_while_timed_is_not_used_again(
    tensorrt: Any, gpu: FakeGpu, library: str, bundle: Callable[[str], Path]
) -> None:
    with open_session(bundle("trt_fp32"), threads=1) as session:
        session.infer(pictures(range(1)))
        pool = cast(TensorRtSession, session)._pool("class_map.onnx")
        assert len(pool._idle) == 1
        tensorrt.made[-1].failing = True
        with pytest.raises(UserError, match="an illegal memory access"):
            session.compute_ms(pictures(range(1)))
        assert not pool._idle
    assert not gpu.left()


class TestPlans:
    @pytest.fixture(autouse=True)
    def library(self) -> str:
        return "cuda_python"

    @pytest.fixture
    def folder(self, tensorrt: Any, bundle: Callable[[str], Path]) -> Path:
        return bundle("trt_fp32")

    def test_a_bundle_holds_plans_keys_and_kernel_times_beside_the_graphs(self, folder: Path) -> None:
        manifest = verify(folder)
        wanted = {"class_map.onnx", "class_map.plan", "logits.onnx", "logits.plan", PLANS, TIMING}
        assert set(manifest.files) == wanted
        assert manifest.size() == (folder / "class_map.plan").stat().st_size
        key = read_json(folder / PLANS)["plans"]["class_map.plan"]
        assert key["onnx_sha256"] == manifest.files["class_map.onnx"].sha256
        assert (key["package"], key["version"]) == ("tensorrt", "11.4.0.106")
        assert (key["gpu"], key["compute_capability"]) == ("Imaginary H1", "9.0")
        assert key["flags"] == {"TF32": False}
        assert (key["least"], key["usual"], key["most"]) == ([1, 32, 64, 3], [1, 32, 64, 3], [8, 32, 64, 3])

    def test_kernel_times_of_a_version_are_kept_beside_the_bundles(self, folder: Path) -> None:
        (cache,) = (folder.parent / "timing").iterdir()
        assert cache.read_bytes() == (folder / TIMING).read_bytes() == b"11.4.0.106 measured"

    @pytest.mark.parametrize("version", ["10.12.0.36", "10.16.1.11"])
    def test_a_plan_of_another_version_is_refused_and_rebuilt_from_its_graph(
        self,
        folder: Path,
        gpu: FakeGpu,
        install: Callable[..., Any],
        version: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with open_session(folder, threads=1) as session:
            expected = session.infer(pictures(range(2)))
        before = (folder / MANIFEST).read_bytes()
        install(gpu, "cuda_python", version)
        with pytest.raises(UserError, match=f"not for this machine: TensorRT 11.4.0.106, here is {version};"):
            open_session(folder, threads=1)
        fresh = rebuild(folder, folder.parent / "fresh", hardware={"cpu": "another"})
        assert fresh.measured is None and fresh.hardware == {"cpu": "another"}
        assert (folder / MANIFEST).read_bytes() == before
        with open_session(folder.parent / "fresh", threads=1) as session:
            np.testing.assert_array_equal(session.infer(pictures(range(2))), expected)

    def test_a_plan_of_another_gpu_is_refused(self, folder: Path, gpu: FakeGpu) -> None:
        gpu.name, gpu.compute_capability = "Imaginary O2", (8, 7)
        differences = (
            "built on Imaginary H1, here is Imaginary O2; built for compute capability 9.0, here is 8.7"
        )
        with pytest.raises(UserError, match=differences):
            open_session(folder, threads=1)

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("onnx_sha256", "0" * 64, "built from another graph"),
            ("system", "Linux aarch64", "built on Linux aarch64, here is"),
            ("flags", {"TF32": True}, "built with flags {'TF32': True}, here {'TF32': False}"),
            ("most", [4, 32, 64, 3], r"made for shapes to \(4, 32, 64, 3\), here to \(8,"),
            ("package", "tensorrt_rtx", "built by tensorrt_rtx, here is tensorrt"),
        ],
    )
    def test_other_differences_are_told_too(self, folder: Path, field: str, value: Any, says: str) -> None:
        keys = read_json(folder / PLANS)
        keys["plans"]["class_map.plan"][field] = value
        self._replace(folder, PLANS, keys)
        with pytest.raises(UserError, match=says):
            open_session(folder, threads=1)

    def test_a_bundle_without_plans_is_refused(self, folder: Path) -> None:
        self._replace(folder, PLANS, {"plans": {}})
        with pytest.raises(UserError, match="holds no plan of class_map.onnx for TensorRT 11.4.0.106"):
            open_session(folder, threads=1)

    def test_keys_of_another_version_of_this_project_are_refused(self, folder: Path) -> None:
        self._replace(folder, PLANS, {"plans": {"class_map.plan": {"gpu": 1}}})
        with pytest.raises(UserError, match="plans.json is of another version"):
            open_session(folder, threads=1)

    def test_a_damaged_plan_is_refused_by_tensorrt(self, folder: Path) -> None:
        content = b"{}\nnothing"
        (folder / "class_map.plan").write_bytes(content)
        manifest = read_json(folder / MANIFEST)
        manifest["files"]["class_map.plan"]["sha256"] = hashlib.sha256(content).hexdigest()
        write_json(folder / MANIFEST, manifest)
        with pytest.raises(UserError, match="refuses little's class_map.onnx: Serialization assertion"):
            open_session(folder, threads=1)

    def _replace(self, folder: Path, name: str, value: Any) -> None:
        write_json(folder / name, value)
        manifest = read_json(folder / MANIFEST)
        manifest["files"][name]["sha256"] = sha256(folder / name)
        write_json(folder / MANIFEST, manifest)


def test_without_a_driver_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "pycuda.driver", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would raise ImportError
    for place in ("bindings", "memory"):
        monkeypatch.setattr(f"deploy.tensorrt.{place}.nvidia_driver", lambda: False)
    for call in (lambda: load_for_gpu("tensorrt"), lambda: load_for_gpu("tensorrt_rtx"), open_memory):
        with pytest.raises(UserError, match="needs an NVIDIA GPU with a driver"):
            call()


@pytest.mark.parametrize("version", ["9.3.0", "10.11.0.33", "12.0.1", ""])
def test_versions_that_are_not_known_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    import sys

    old = ModuleType("tensorrt")
    old.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(
        UserError, match=f"TensorRT {version} is not supported, TensorRT 10.12 to before 12.0 is"
    ):
        load("tensorrt")


def test_a_capable_machine_is_told_what_moves_its_memory(
    driver: None, gpu: FakeGpu, install: Callable[..., Any]
) -> None:
    install(gpu, "pycuda")
    assert capability("tensorrt", "fp16") is None
