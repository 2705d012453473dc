from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.models.segmenter import build_segmenter
from afdcd.training.rectified import rectified_norms

CHANNELS = 4


class Block(nn.Module):
    """A block as backbones have it; what happens to the norm's output is the test's."""

    def __init__(self, use: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.norm, self.other = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def call(part: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, part(x))


def kept(block: Block, x: Tensor) -> Tensor:
    before = call(block.norm, x)
    return call(block.act, before) + before


def twice(block: Block, x: Tensor) -> Tensor:
    return call(block.norm, call(block.act, call(block.norm, x)))


def shortcut(block: Block, x: Tensor) -> Tensor:
    y = call(block.norm, x)
    y += x
    return call(block.act, y)


def untraceable(block: Block, x: Tensor) -> Tensor:
    y = call(block.norm, x)
    return call(block.act, y) if y.shape[0] > 1 else y


BLOCKS: dict[str, tuple[Callable[[Block, Tensor], Tensor], list[str]]] = {
    "at once": (lambda block, x: call(block.act, call(block.norm, x)), ["norm"]),
    "after an identity": (lambda block, x: call(block.act, call(block.drop, call(block.norm, x))), ["norm"]),
    "one ReLU for two": (
        lambda block, x: call(block.act, call(block.other, call(block.act, call(block.norm, x)))),
        ["norm", "other"],
    ),
    "two norms": (lambda block, x: call(block.act, call(block.other, call(block.norm, x))), ["other"]),
    "no ReLU": (lambda block, x: call(block.norm, call(block.act, x)), []),
    "another ReLU": (lambda block, x: F.relu(call(block.norm, x)), []),
    "after a sum": (shortcut, []),
    "the norm's output is used too": (kept, []),
    "the norm is used twice": (twice, []),
    "the norm's output is the end": (lambda block, x: call(block.norm, x), []),
    "it depends on the values": (untraceable, []),
}


def names(network: nn.Module) -> list[str]:
    known = {part: name for name, part in network.named_modules()}
    return [known[norm] for norm, relu in rectified_norms(network) if type(relu) is nn.ReLU]


@pytest.mark.parametrize("case", BLOCKS)
def test_what_happens_to_a_norms_output(case: str) -> None:
    use, wanted = BLOCKS[case]
    assert names(Block(use)) == wanted
    assert names(nn.ModuleDict({"inner": Block(use)})) == [f"inner.{name}" for name in wanted]


@pytest.mark.parametrize("name", ["norm", "drop", "act"])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_what_has_a_hook_makes_no_pair(name: str, hook: str) -> None:
    block = Block(BLOCKS["after an identity"][0])
    handle = getattr(block.get_submodule(name), f"register_{hook}_hook")(lambda *given: None)
    assert names(block) == []
    handle.remove()
    assert names(block) == ["norm"]


def test_a_norm_of_two_owners_makes_no_pair() -> None:
    block = Block(BLOCKS["at once"][0])
    assert names(nn.Sequential(block, nn.Sequential(block.norm, nn.Conv2d(4, 4, 1)))) == []
    assert names(nn.Sequential(block, nn.Sequential(block.act, nn.Conv2d(4, 4, 1)))) == ["0.norm"]


class Own(nn.BatchNorm2d):
    """A norm of another class."""


@pytest.mark.parametrize(
    "parts",
    [
        (Own(4), nn.ReLU()),
        (nn.SyncBatchNorm(4), nn.ReLU()),
        (nn.BatchNorm2d(4), nn.ReLU6()),
        (nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()),
    ],
    ids=lambda parts: type(parts[0]).__name__ + type(parts[1]).__name__,
)
def test_only_norms_and_relus_of_torchs_own_classes(parts: tuple[nn.Module, ...]) -> None:
    assert names(nn.Sequential(*parts)) == []


def test_nothing_is_computed_or_changed() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), Block(untraceable)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    assert names(network) == ["0"]
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert torch.get_rng_state().equal(generator) and network.training


def test_a_students_norms_but_those_before_a_sum() -> None:
    student = build_segmenter(tiny.model(), 3)
    found = names(student)
    assert {"backbone.network.layer1.0.bn1", "backbone.network.bn1", "head.block.1"} <= set(found)
    assert not any(name.endswith(("bn2", "downsample.1")) for name in found)
