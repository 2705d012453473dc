from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.training.folding import fold_batch_norms


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (layer.weight, layer.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    for tensor in (layer.bias, layer.running_mean):
        nn.init.uniform_(tensor, -1, 1)
    return layer


class Net(nn.Module):
    """A convolution and its norm twice, in the order that a case gives."""

    def __init__(self, order: Callable[[Net, Tensor], Tensor], *, bias: bool = False) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1, bias=bias) for _ in range(2))
        self.first, self.second = norm(4), norm(4)
        self.order = order
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.order(self, x)


def outputs(net: Net) -> Callable[[], list[Tensor]]:
    given = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [net(given)]

    return run


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_folded_network_computes_the_same(bias: bool, layout: torch.memory_format) -> None:
    net = Net(lambda n, x: n.second(n.two(F.relu(n.first(n.one(x))))), bias=bias).to(memory_format=layout)
    run = outputs(net)
    (expected,) = run()
    assert fold_batch_norms(net, run) == 2
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    assert net.one.weight.is_contiguous(memory_format=layout) and not net.one.weight.requires_grad
    torch.testing.assert_close(run()[0], expected, rtol=1e-12, atol=1e-12)


CASES: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "something between": (lambda n, x: n.first(F.relu(n.one(x))) + n.second(n.two(x)), 1),
    "changed in place between": (lambda n, x: n.first(n.one(x).mul_(3)) + n.second(n.two(x)), 1),
    "a convolution used twice": (lambda n, x: n.first(n.one(x)) + n.second(n.one(n.two(x))), 0),
    "a norm used twice": (lambda n, x: n.first(n.one(x)) + n.first(n.two(x)), 0),
    "a convolution's output used beside its norm": (lambda n, x: n.first(y := n.one(x)) + y, 0),
    "a norm alone": (lambda n, x: n.first(x), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_left(case: str) -> None:
    order, folded = CASES[case]
    net = Net(order)
    run, before = outputs(net), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (expected,) = run()
    assert fold_batch_norms(net, run) == folded
    torch.testing.assert_close(run()[0], expected, rtol=1e-12, atol=1e-12)
    if not folded:
        after = net.state_dict()
        assert after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)


def test_norms_of_other_kinds_stay() -> None:
    class Other(nn.BatchNorm2d):
        pass

    net = Net(lambda n, x: n.second(n.two(n.first(n.one(x)))))
    net.first, net.second = Other(4).double().eval(), nn.BatchNorm2d(4, affine=False).double().eval()
    assert fold_batch_norms(net, outputs(net)) == 0
