from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afdcd.native import kernels as module
from afdcd.native.kernels import call, has_kernels, idle, loaded

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache, and no memory of what was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quick = tuple("-O0" if flag == "-O3" else flag for flag in module._FLAGS)
    monkeypatch.setattr(module, "_FLAGS", quick)
    loaded.cache_clear()
    yield tmp_path / "afdcd"
    loaded.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_the_library_is_built_once(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_kernels() and loaded().reason == ""
    (built,) = anew.iterdir()
    before = built.stat().st_mtime_ns
    loaded.cache_clear()
    monkeypatch.setattr(module, "atomic_file", None)
    assert has_kernels()
    assert [path.stat().st_mtime_ns for path in anew.iterdir()] == [before]


@needs_compiler
def test_another_source_or_processor_has_a_library_of_its_own(
    anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = module._built()
    sources = tmp_path / "sources"
    shutil.copytree(module._HERE, sources)
    with (sources / "vectors.h").open("a", encoding="utf-8") as file:
        file.write("/* another one */\n")
    monkeypatch.setattr(module, "_HERE", sources)
    second = module._built()
    compiler = shutil.which("cc")
    monkeypatch.setenv("CC", script(tmp_path / "older", f'exec {compiler} -DANOTHER_PROCESSOR=1 "$@"'))
    assert len({first, second, module._built()}) == 3


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("echo 'x.c:1: error: no such option' >&2; exit 1", "fails: x.c:1: error: no such option"),
        ("exit 3", "fails: exit status 3"),
    ],
)
def test_a_compiler_that_fails_is_told(
    compiler: str,
    reason: str,
    anew: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "broken", compiler))
    with caplog.at_level("INFO"):
        assert not has_kernels() and not has_kernels()
    assert loaded().reason.endswith(reason)
    assert [r.message for r in caplog.records] == [f"kernels in C are not used: {loaded().reason}"]


def test_no_compiler_is_told(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(anew))
    monkeypatch.delenv("CC", raising=False)
    assert loaded().reason == "no C compiler (cc, gcc or clang) is installed"


@needs_compiler
def test_a_cache_that_cannot_be_written_is_told(anew: Path) -> None:
    anew.write_text("a file where the folder should be", encoding="utf-8")
    assert not has_kernels() and str(anew) in loaded().reason


@needs_compiler
def test_a_damaged_library_is_told(anew: Path) -> None:
    path = module._built()
    path.write_bytes(b"no library")
    assert not has_kernels() and path.name in loaded().reason


@needs_compiler
def test_processes_that_build_at_once_do_not_meet(anew: Path) -> None:
    code = (
        f"import afdcd.native.kernels as k; k._FLAGS = {module._FLAGS}; raise SystemExit(not k.has_kernels())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(anew.parent)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert [path.suffix for path in anew.iterdir()] == [".so"]


@needs_compiler
def test_kernels_take_the_threads_of_those_that_are_idle() -> None:
    functions = loaded().functions
    assert functions is not None
    own = functions.team()
    with idle(own + 3):
        assert functions.team() == own + 3
        with idle(own + 3):
            assert functions.team() == own + 3
        assert functions.team() == own + 3
    with idle(own - 1):
        assert functions.team() == own
    with pytest.raises(KeyError), idle(own + 3):
        raise KeyError
    assert functions.team() == own


class Kernel:
    """Returns its last argument, and remembers all."""

    argtypes: list[type] | None = None
    given: tuple[object, ...] = ()

    def __call__(self, *arguments: object) -> object:
        self.given = arguments
        return arguments[-1]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """What is called for "anything" of float32 and bfloat16."""
    kernel = Kernel()
    functions = SimpleNamespace(anything_float=kernel, anything_bfloat16=kernel)
    monkeypatch.setattr(module, "loaded", lambda: module.Library(functions, ""))  # type: ignore[arg-type]
    return kernel


def test_failures_of_a_kernel_are_errors(kernel: Kernel) -> None:
    like = torch.zeros(())
    call("anything", like, 0)
    with pytest.raises(RuntimeError, match="not enough memory for a kernel"):
        call("anything", like, 1)
    with pytest.raises(IndexError, match="a label is no class"):
        call("anything", like, 2)


def test_what_a_kernel_is_given(kernel: Kernel) -> None:
    like, labels = torch.zeros(2, 3, 4, 5), torch.zeros(3, dtype=torch.int64)
    channels_last = like.to(memory_format=torch.channels_last)
    call("anything", like, like, channels_last, labels, None, 0.5, 0)
    assert kernel.given == (like.data_ptr(), channels_last.data_ptr(), labels.data_ptr(), None, 0.5, 0)
    pointer = ctypes.c_void_p
    assert kernel.argtypes == [pointer, pointer, pointer, pointer, ctypes.c_double, ctypes.c_long]


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bfloat16),
        torch.zeros(3, device="meta"),
        torch.zeros(3, 4)[:, 1:],
    ],
    ids=["wider", "narrower", "elsewhere", "with gaps"],
)
def test_what_a_kernel_cannot_take_is_refused(wrong: torch.Tensor, kernel: Kernel) -> None:
    with pytest.raises(AssertionError):
        call("anything", torch.zeros(()), wrong, 0)
    assert kernel.given == ()


def test_bfloat16_may_stand_beside_float32(kernel: Kernel) -> None:
    like = torch.zeros(3, dtype=torch.bfloat16)
    call("anything", like, like, like.float(), 0)
    assert kernel.given == (like.data_ptr(), kernel.given[1], 0)
    with pytest.raises(AssertionError, match="torch.float64"):
        call("anything", like, like.double(), 0)
