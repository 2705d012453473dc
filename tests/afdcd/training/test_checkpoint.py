from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import torch
from torch import nn

from afdcd.errors import UserError
from afdcd.training.checkpoint import Checkpoint, RunFolder, load_optimiser, optimiser_tensors, run_key


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "run", "key")


def test_what_is_saved_comes_back(folder: RunFolder) -> None:
    assert folder.load() is None
    tensors = {"a/b": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    facts = {"iteration": 7, "rows": [{"loss": 0.1, "ce": 1 / 3}]}
    folder.save(Checkpoint(tensors, facts))
    loaded = folder.load()
    assert loaded is not None and loaded.facts == facts
    assert all(loaded.tensors[name].equal(tensors[name]) for name in tensors)


@pytest.mark.parametrize("damage", [slice(-5), slice(20), slice(0), slice(1, None)])
def test_a_damaged_checkpoint_is_refused_with_the_remedy(folder: RunFolder, damage: slice) -> None:
    folder.save(Checkpoint({"a": torch.ones(9)}, {"iteration": 1}))
    folder.file.write_bytes(folder.file.read_bytes()[damage])
    with pytest.raises(UserError, match="cannot be read .* delete the folder .*run-key"):
        folder.load()


def test_foreign_tensors_are_refused(folder: RunFolder) -> None:
    from safetensors.torch import save_file

    folder.path.mkdir()
    save_file({"a": torch.ones(1)}, folder.file)
    with pytest.raises(UserError, match="cannot be read"):
        folder.load()


def test_two_trainers_never_share_a_folder(folder: RunFolder) -> None:
    with folder.owned(), pytest.raises(UserError, match="another process"), folder.owned():
        pass
    with folder.owned():
        pass


def test_left_overs_of_a_killed_writer_are_cleared(folder: RunFolder) -> None:
    folder.path.mkdir()
    left = folder.path / ".last.safetensors.123.tmp"
    left.write_bytes(b"half")
    with folder.owned():
        assert not left.exists()


def test_the_lock_is_released_by_a_death(folder: RunFolder) -> None:
    with folder.owned(), (folder.path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_key_depends_on_every_part() -> None:
    parts = {"teacher": "abc", "schedule": {"lr": 0.1, "iterations": 5}}
    assert run_key(parts) == run_key(dict(reversed(parts.items())))
    assert run_key(parts) != run_key({**parts, "teacher": "abd"})
    assert len(run_key(parts)) == 16


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimiser_goes_on_exactly(kind: type[torch.optim.Optimizer]) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return net, kind(net.parameters(), lr=0.1, fused=True, **extra)  # type: ignore[call-arg]

    def step(net: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimiser.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimiser.step()

    net, optimiser = make()
    for seed in (1, 2):
        step(net, optimiser, seed)
    saved, state = optimiser_tensors(optimiser, net), net.state_dict()
    again, restored = make()
    again.load_state_dict(state)
    load_optimiser(restored, again, {name: torch.clone(t).contiguous() for name, t in saved.items()})
    for pair in ((net, optimiser), (again, restored)):
        step(*pair, 3)
    for first, second in zip(net.parameters(), again.parameters(), strict=True):
        assert first.equal(second)
        assert restored.state[second].keys() == optimiser.state[first].keys()
