from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from little_net import picture

from afdcd.files import sha256
from deploy import form, winograd
from deploy.build import build, rebuild
from deploy.bundle import CLASS_MAP, LOGITS, Contract, read_contract, verify
from deploy.config import TargetConfig
from deploy.form import fastest
from deploy.sessions import Reader, Session, open_backend, open_session

pytestmark = pytest.mark.xdist_group("little")

FLOAT = TargetConfig(backend="onnxruntime", precision="fp32", where="here", threads=1)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of a little network are worth it too."""
    monkeypatch.setattr(winograd, "WORTH", 0.0)


def _ran(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    monkeypatch.setattr(form, "_gain", lambda *given: gain)


@pytest.mark.parametrize(("gain", "taken"), [(1.06, True), (1.04, False), (0.7, False)])
def test_a_twentieth_decides(
    typed: Callable[[str], Path], any_size: None, monkeypatch: pytest.MonkeyPatch, gain: float, taken: bool
) -> None:
    _ran(monkeypatch, gain)
    source = typed("ort_cpu_fp32")
    files = {name: (source / name).read_bytes() for name in (CLASS_MAP, LOGITS)}
    found, names = fastest(files, read_contract(source), FLOAT)
    assert bool(names) == taken
    assert all((found[name] == files[name]) != taken for name in files)


def test_small_convolutions_are_not_tried(
    typed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "open_backend", lambda *given, **more: pytest.fail("it was timed"))
    source = typed("ort_cpu_fp32")
    files = {name: (source / name).read_bytes() for name in (CLASS_MAP, LOGITS)}
    assert fastest(files, read_contract(source), FLOAT) == (files, [])


def test_both_forms_run_in_turns(
    typed: Callable[[str], Path], any_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "SECONDS", 0.0)
    opened: list[bytes] = []
    ran: list[bytes] = []

    def counted(backend: str, contract: Contract, read: Reader, *, threads: int) -> Session:
        session, content = open_backend(backend, contract, read, threads=threads), read(CLASS_MAP)
        infer = session.infer
        monkeypatch.setattr(session, "infer", lambda images: (ran.append(content), infer(images))[1])
        opened.append(content)
        return session

    monkeypatch.setattr(form, "open_backend", counted)
    source = typed("ort_cpu_fp32")
    files = {name: (source / name).read_bytes() for name in (CLASS_MAP, LOGITS)}
    fastest(files, read_contract(source), FLOAT)
    own, rival = opened
    assert own == files[CLASS_MAP] != rival
    assert ran == [own, rival] * (1 + form.ROUNDS[0])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_bundle_says_what_it_computes_so(
    typed: Callable[[str], Path],
    tmp_path: Path,
    any_size: None,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    source = typed("ort_cpu_fp32")
    spec = FLOAT.model_copy(update={"backend": backend})
    folders = {}
    for gain in (1.0, 2.0):
        _ran(monkeypatch, gain)
        folders[gain] = tmp_path / str(gain)
        build(source, folders[gain], target="cpu_fp32", spec=spec, hardware={})
    plain, fast = (verify(folder) for folder in folders.values())
    assert plain.winograd == [] and fast.winograd
    assert plain.files[CLASS_MAP].sha256 == sha256(source / CLASS_MAP) != fast.files[CLASS_MAP].sha256
    convolutions = {node.name for node in onnx.load(source / CLASS_MAP).graph.node if node.op_type == "Conv"}
    assert set(fast.winograd) <= convolutions
    images = picture(0).image[None]
    logits, maps = [], []
    for folder in folders.values():
        with open_session(folder, threads=1) as session:
            logits.append(session.logits(images))
            maps.append(session.infer(images))
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4 * np.abs(logits[0]).max())
    assert (maps[0] == maps[1]).mean() > 0.999


def test_built_again_from_a_bundle_it_keeps_its_form(
    typed: Callable[[str], Path], tmp_path: Path, any_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ran(monkeypatch, 2.0)
    first, again = tmp_path / "first", tmp_path / "again"
    made = build(typed("ort_cpu_fp32"), first, target="ort_cpu_fp32", spec=FLOAT, hardware={})
    assert made.winograd and rebuild(first, again, hardware={}).winograd == made.winograd
    assert (again / CLASS_MAP).read_bytes() == (first / CLASS_MAP).read_bytes()
    files = {name: (first / name).read_bytes() for name in (CLASS_MAP, LOGITS)}
    assert fastest(files, made.contract, FLOAT) == (files, made.winograd)


@pytest.mark.parametrize("target", ["ort_cpu_int8", "pytorch_fp32"])
def test_others_are_not_tried(
    bundle: Callable[[str], Path], any_size: None, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(form, "_gain", lambda *given: pytest.fail("it was timed"))
    assert verify(bundle(target)).winograd == []
