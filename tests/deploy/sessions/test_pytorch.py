from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts.session import SessionContract
from little_net import LittleNet, pictures
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from afdcd.errors import UserError
from deploy.bundle import CONTRACT, PROGRAM, write_model
from deploy.export import Deployable, Exported
from deploy.sessions import Session, open_backend, open_reference, open_session

pytestmark = pytest.mark.xdist_group("little")


class TestPyTorch(SessionContract):
    target = "pytorch_fp32"

    def threads_of(self, session: Session) -> int:
        return torch.get_num_threads()


@pytest.mark.slow
class TestCompiled(SessionContract):
    target = "pytorch_compiled_fp32"

    def threads_of(self, session: Session) -> int:
        return torch.get_num_threads()


def test_the_compiled_form_is_refused_without_a_compiler(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.sessions.capability.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"torch.compile needs the C\+\+ compiler .*take the backend pytorch"):
        open_backend("pytorch_compiled", exported.contract, exported.files.__getitem__, threads=1)


@pytest.mark.parametrize("kind", [TorchDynamoException, FailOnRecompileLimitHit])
def test_what_cannot_be_compiled_is_an_error_and_not_run_eagerly(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(images: torch.Tensor) -> None:
        raise kind("no kernel for this")

    def compile(module: torch.nn.Module, *, fullgraph: bool, options: dict[str, object]) -> object:
        assert fullgraph and options["cpp.threads"] == 1
        return fail

    monkeypatch.setattr(torch, "compile", compile)
    with (
        open_backend("pytorch_compiled", exported.contract, exported.files.__getitem__, threads=1) as session,
        pytest.raises(UserError, match=r"cannot compile little: .*no kernel for this"),
    ):
        session.infer(pictures(range(1)))


def test_the_thread_count_is_put_back(bundle: Callable[[str], Path]) -> None:
    before = torch.get_num_threads()
    with open_session(bundle("pytorch_fp32"), threads=before + 1):
        pass
    assert torch.get_num_threads() == before


def test_the_program_computes_what_the_module_does(
    exported: Exported, little: LittleNet, tmp_path: Path
) -> None:
    (tmp_path / PROGRAM).write_bytes(exported.files[PROGRAM])
    write_model(tmp_path / CONTRACT, exported.contract)
    images = pictures(range(3))
    with torch.no_grad():
        class_map, logits = Deployable(little)(torch.from_numpy(images))
    with open_reference(tmp_path, threads=1) as session:
        np.testing.assert_array_equal(session.infer(images), class_map.numpy())
        np.testing.assert_allclose(session.logits(images), logits.numpy(), rtol=1e-5, atol=1e-5)


def test_an_altered_reference_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_bytes(exported.files[PROGRAM] + b" ")
    write_model(tmp_path / CONTRACT, exported.contract)
    with pytest.raises(UserError, match=r"reference.pt2 is not the file"):
        open_reference(tmp_path, threads=1)
