from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.contrast import SETTING, assert_same, pair

from afdcd.errors import UserError
from afdcd.losses.contrast import compiled as kernels
from afdcd.losses.contrast.compiled import compiled
from afdcd.losses.contrast.dense import dense


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' formulas as ordinary operations: Inductor takes seconds for each."""
    monkeypatch.setattr(kernels, "_built", lambda kernel: kernel)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("temperature", [0.01, 3.0])
def test_the_kernels_formulas_are_those_of_the_dense_form(distance: Any, temperature: float) -> None:
    setting = SETTING._replace(distance=distance, temperature=temperature)
    assert_same(compiled, dense, *pair(), setting)
    same = torch.zeros(1, 6, 2, 3, requires_grad=True)
    assert not torch.autograd.grad(compiled(same, same.detach(), setting), same)[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_inductor_builds_the_dense_form(distance: Any) -> None:
    for temperature in (0.01, 3.0):
        for shape in ((2, 6, 5, 7), (3, 48, 4, 3)):
            setting = SETTING._replace(distance=distance, temperature=temperature)
            assert_same(compiled, dense, *pair(shape, torch.float32), setting)


def test_no_compiler_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler found\n\nmore")

    monkeypatch.setattr(kernels, "_built", lambda kernel: fails)
    message = r"\(No working C\+\+ compiler found\); install a C\+\+ compiler, or set"
    with pytest.raises(UserError, match=message):
        compiled(*pair(), SETTING)
