from __future__ import annotations

import pytest
import torch

from afdcd.errors import UserError
from afdcd.training.distributed import World, join, pick_device


def test_alone_everything_is_free() -> None:
    with join("cpu") as world:
        assert world == World(0, 1, torch.device("cpu")) and world.leads
        tensor, module = torch.ones(2), torch.nn.BatchNorm2d(2)
        assert world.sum(tensor) is tensor and world.minimum(tensor) is tensor
        assert world.wrap(module) is module
        world.spread_buffers(module)
        world.barrier()


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto", 0).type == "cpu"
    with pytest.raises(UserError, match="runtime.device: auto"):
        pick_device("cuda", 0)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == torch.device("cuda", 1)
    assert pick_device("cpu", 5).type == "cpu"
    with pytest.raises(UserError, match="process 2 has no GPU"):
        pick_device("auto", 2)
