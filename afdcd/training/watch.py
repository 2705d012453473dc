"""Loss terms summed where they are computed, and the first iteration at which one stopped being a number."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from afdcd.errors import UserError
from afdcd.training.distributed import World
from afdcd.training.task import Terms

NEVER = 2**62


class TermWatch:
    """Adds terms up on the device, without waiting for it, until `read`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names: list[str] = []
        self._count = 0
        self._sums = torch.zeros(0)
        self._first_bad = torch.zeros(0)

    def add(self, iteration: int, terms: Terms) -> None:
        """Count the terms of one iteration; the names must stay the same."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        bad = torch.where(values.isfinite(), NEVER, iteration)
        if self._count == 0:
            self._names, self._sums, self._first_bad = list(terms), values, bad
        else:
            self._sums = self._sums + values
            self._first_bad = self._first_bad.minimum(bad)
        self._count += 1

    def read(self) -> dict[str, float]:
        """Means since the last reading, over all processes; empty when nothing was counted.

        Raises:
            UserError: a term became NaN or infinite; it is named, with the iteration, on every process.
        """
        if self._count == 0:
            return {}
        # In float64, which holds every iteration number: one exchange serves both.
        figures = torch.stack([self._sums.double(), self._first_bad.double()])
        sums, bads = self._world.gathered(figures).unbind(1)
        means = (sums.mean(0) / self._count).tolist()
        first_bad = bads.amin(0).tolist()
        self._count = 0
        if (first := min(first_bad)) < NEVER:
            bad = [name for name, at in zip(self._names, first_bad, strict=True) if at == first]
            raw = [name for name in bad if name != "loss" and not name.startswith("weighted/")] or bad
            raise UserError(
                f"the loss term {' and '.join(map(repr, raw))} became NaN or infinite "
                f"at iteration {int(first) + 1}; lower the learning rate or the weight of that term"
            )
        return dict(zip(self._names, means, strict=True))


def require_finite(tensors: Iterable[Tensor], iteration: int) -> None:
    """Refuse weights that are no longer numbers, before they are saved or validated.

    Raises:
        UserError: some value is NaN or infinite.
    """
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    # Adding up takes an eighth of the time of looking at each number; a sum of numbers may overflow, though.
    if not floating or torch.stack([tensor.sum() for tensor in floating]).isfinite().all():
        return
    if not torch.stack([tensor.isfinite().all() for tensor in floating]).all():
        raise UserError(
            f"the weights became NaN or infinite by iteration {iteration} although the loss was finite; "
            "lower the learning rate"
        )
