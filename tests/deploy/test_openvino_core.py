from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap

import pytest

ov = pytest.importorskip("openvino")

from deploy.openvino_core import _Stack, core, kept_signal_stack  # noqa: E402


def stack() -> tuple[int | None, int]:
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.address, found.size


def test_one_runtime_a_process() -> None:
    assert core() is core() and "CPU" in core().available_devices


def test_a_signal_after_two_models_of_which_the_first_ended_first_kills_nothing() -> None:
    script = """
    import gc, os, signal
    import openvino as ov
    import openvino.opset13 as ops
    from deploy.openvino_core import core

    def compiled():
        x = ops.parameter([1, 4, 8, 8], ov.Type.f32)
        return core().compile_model(ov.Model([ops.relu(x)], [x]), "CPU")

    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    one, two = compiled(), compiled()
    del one
    gc.collect()
    del two
    gc.collect()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    print(len(seen))
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_the_stack_of_before_comes_back() -> None:
    before = stack()
    room = ctypes.create_string_buffer(1 << 17)
    other = _Stack(ctypes.addressof(room), 0, len(room))
    with kept_signal_stack():
        ctypes.CDLL(None).sigaltstack(ctypes.byref(other), None)
        assert stack() == (ctypes.addressof(room), len(room)) != before
    assert stack() == before
