"""A running mean of the student's weights, which is often a better network than the last step's."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from afdcd.models.segmenter import Segmenter


def decay_at(decay: float, iteration: int) -> float:
    """The decay of an iteration counted from 0: min(decay, (1 + it) / (10 + it)).

    A short training would otherwise keep its random start in the mean: 0.999 leaves 45 % of it after 800
    iterations.
    """
    return min(decay, (1 + iteration) / (10 + iteration))


class WeightAverage:
    """mean <- d mean + (1 - d) student, for weights and running statistics (Polyak's average, exponential).

    Attributes:
        network: a network of its own with the mean; never compiled, never trained.
    """

    def __init__(self, student: Segmenter, decay: float) -> None:
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self._decay = decay
        ours, theirs = (network.state_dict(keep_vars=True) for network in (self.network, student))
        pairs = [(mean.data, theirs[name].data) for name, mean in ours.items()]
        self._means: list[Tensor] = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values: list[Tensor] = [value for _, value in pairs if value.is_floating_point()]
        self._counts = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]

    def update(self, iteration: int) -> None:
        """Take in the student's weights after an iteration, counted from 0."""
        torch._foreach_lerp_(self._means, self._values, 1 - decay_at(self._decay, iteration))
        for mean, value in self._counts:
            mean.copy_(value)
