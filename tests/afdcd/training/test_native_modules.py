from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import tiny
from torch import nn

from afdcd.native import kernels
from afdcd.training.batch_norm import NativeBatchNorm2d, RectifiedReLU, RectifyingBatchNorm2d
from afdcd.training.convolution import NativeConv2d
from afdcd.training.dropout import NativeDropout
from afdcd.training.native_modules import native_modules
from afdcd.training.stopping import StopRequest

pytestmark = pytest.mark.skipif(not kernels.has_kernels(), reason=kernels.loaded().reason)


class Own(nn.BatchNorm2d):
    """A subclass with a forward pass of its own, as timm has them."""


def test_modules_are_what_they_were_afterwards() -> None:
    network = nn.Sequential(
        *(nn.BatchNorm2d(8), Own(8), nn.ReLU(), nn.SyncBatchNorm(8)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Dropout2d(0.1)),
    )
    names = list(network.state_dict())
    classes = [nn.BatchNorm2d, Own, nn.ReLU, nn.SyncBatchNorm, nn.BatchNorm2d, nn.ReLU]
    classes += [nn.Dropout, nn.Dropout2d]
    ours = [NativeBatchNorm2d, *classes[1:4], RectifyingBatchNorm2d, RectifiedReLU]
    ours += [NativeDropout, nn.Dropout2d]
    with pytest.raises(KeyError), native_modules(network):
        assert [type(part) for part in network] == ours
        assert list(network.state_dict()) == names
        for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert [type(part) for part in copied] == [type(part) for part in network]
        raise KeyError
    assert [type(part) for part in network] == classes


@pytest.mark.parametrize("preferred", [False, True])
def test_convolutions_are_swapped_where_that_is_quicker(
    monkeypatch: pytest.MonkeyPatch, preferred: bool
) -> None:
    monkeypatch.setattr("afdcd.training.convolution.prefers_product", lambda: preferred)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    with native_modules(network):
        assert [type(part) for part in network] == [NativeConv2d if preferred else nn.Conv2d, nn.Conv2d]
    assert [type(part) for part in network] == [nn.Conv2d, nn.Conv2d]


def test_without_a_compiler_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afdcd.training.native_modules.has_kernels", lambda: False)
    network = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())
    with native_modules(network):
        assert [type(part) for part in network] == [nn.BatchNorm2d, nn.ReLU, nn.Dropout]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_uses_it_unless_it_is_compiled(
    workshop: Any, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    workshop.practice = tiny.practice(compile=compiled, channels_last=True, ema=0.9)
    workshop.schedule = tiny.schedule(iterations=2, validate_every=1)
    called: list[str] = []
    for name in ("batch_norm", "dropout"):
        where = f"afdcd.training.{name}.call"
        monkeypatch.setattr(where, lambda *a: called.append(a[0]) or kernels.call(*a))
    task = workshop.distillation()
    workshop.training(task).run(StopRequest())
    assert (set(called) == {"batch_norm", "batch_norm_back", "dropout"}) != compiled
    ours = (NativeBatchNorm2d, NativeDropout, RectifiedReLU)
    assert not any(isinstance(part, ours) for part in task.learner.modules())
