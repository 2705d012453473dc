"""Which batch normalisations are followed by a ReLU, and by nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import fx, nn

_Pair = tuple[nn.BatchNorm2d, nn.ReLU]


def rectified_norms(network: nn.Module) -> list[_Pair]:
    """Every `nn.BatchNorm2d` whose output only an `nn.ReLU` takes, with that ReLU.

    That is read off the forward passes of the modules that hold both, traced one at a time as they are now,
    their parts as black boxes: nothing is computed. What cannot be traced, is used twice, or has a hook that
    could see the values in between, makes no pair.
    """
    parts = Counter(part for parent in network.modules() for part in parent.children())
    return [pair for parent in network.modules() for pair in _pairs(parent) if parts[pair[0]] == 1]


class _Outline(fx.Tracer):
    """The calls of a module's own parts, whatever those do."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _pairs(parent: nn.Module) -> Iterator[_Pair]:
    if not {nn.BatchNorm2d, nn.ReLU} <= {type(part) for part in parent.children()}:
        return
    try:
        nodes = _Outline().trace(parent).nodes
    except Exception:  # Any code may run into anything where a map is no tensor.
        return
    called = {node: parent.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    times = Counter(called.values())
    for node, norm in called.items():
        if type(norm) is not nn.BatchNorm2d or times[norm] > 1:
            continue
        last: nn.Module = norm
        while (last is norm or type(last) is nn.Identity) and not _hooked(last) and len(node.users) == 1:
            (node,) = node.users
            last = called.get(node, parent)
        if type(last) is nn.ReLU and not _hooked(last):
            yield norm, last


def _hooked(part: nn.Module) -> bool:
    return bool(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    )
