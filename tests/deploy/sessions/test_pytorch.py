from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts.session import SessionContract
from little_net import LittleNet, pictures

from afdcd.errors import UserError
from deploy.bundle import CONTRACT, PROGRAM, write_model
from deploy.export import Deployable, Exported
from deploy.sessions import Session, open_reference, open_session

pytestmark = pytest.mark.xdist_group("little")


class TestPyTorch(SessionContract):
    target = "pytorch_fp32"

    def threads_of(self, session: Session) -> int:
        return torch.get_num_threads()


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
