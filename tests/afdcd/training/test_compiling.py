from __future__ import annotations

import logging
from typing import Any

import pytest
import tiny
import torch
from loops import same, stop_after_five, weights
from torch._inductor.exc import InvalidCxxCompiler

from afdcd.errors import UserError
from afdcd.training.compiling import compile_errors, uncompiled
from afdcd.training.stopping import StopRequest


def test_a_missing_compiler_is_said_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler .* train.practice.compile: false"):
        with compile_errors():
            raise InvalidCxxCompiler()
    with pytest.raises(RuntimeError, match="another"), compile_errors():
        raise RuntimeError("another")


def test_each_network_is_compiled_and_validation_is_not(
    workshop: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append((self, options)))
    workshop.practice = tiny.practice(compile=True)
    workshop.schedule = tiny.schedule(iterations=1, validate_every=1)
    stances: list[str] = []
    workshop.validate = lambda network: stances.append(torch._dynamo.eval_frame._stance.stance) or 0.5
    task = workshop.distillation()
    with caplog.at_level(logging.INFO):
        workshop.training(task).run(StopRequest())
    assert [network for network, _ in compiled] == [task.student, task._teacher]
    assert all(options == {"dynamic": False} for _, options in compiled)
    assert "a minute or more" in caplog.text
    assert stances == ["force_eager"]
    with uncompiled():
        pass
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.slow
def test_compiled_training_resumes_bit_for_bit_under_the_same_names(workshop: Any) -> None:
    plain = workshop.distillation()
    workshop.training(plain).run(StopRequest())
    workshop.practice = tiny.practice(compile=True, ema=0.9)
    workshop.folder = workshop.folder / "compiled"
    unbroken = workshop.distillation()
    workshop.training(unbroken).run(StopRequest())

    stop_after_five(workshop)
    resumed = workshop.distillation()
    workshop.training(resumed).run(StopRequest())
    assert same(weights(resumed), weights(unbroken))
    assert weights(unbroken).keys() == weights(plain).keys()
