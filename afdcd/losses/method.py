"""The shape of a distillation method: named terms from two outputs, and what it needs to learn itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from afdcd.config import ContrastForm
from afdcd.models.output import ChannelSpec, SegOutput, Stop


class Target(NamedTuple):
    """What a training batch holds beside its images.

    Attributes:
        labels: (B, H, W) int64 class ids, ignore index where unlabelled.
        keys: (B,) int64, a number unique to (seed, iteration, sample); random masks are a function of it.
    """

    labels: Tensor
    keys: Tensor


class Context(NamedTuple):
    """What a method may know of the run: shapes and classes, never a dataset's name.

    `contrast` is how Af-DCD's contrast is computed, which changes rounding only.
    """

    student: ChannelSpec
    teacher: ChannelSpec
    ignore_index: int
    class_weights: Tensor | None
    contrast: ContrastForm = "auto"


class Adam(NamedTuple):
    """An optimiser of one's own, without weight decay.

    Attributes:
        lr: at the start; it falls with the student's.
        betas: of the two running means.
    """

    lr: float
    betas: tuple[float, float]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with their own optimiser settings; factors are relative to the student's.

    With `adam` they leave the student's optimiser, and `lr_factor` counts no more.
    """

    parameters: list[nn.Parameter]
    lr_factor: float = 1.0
    clip: bool = True
    adam: Adam | None = None


class Method(nn.Module):
    """A distillation method.

    A subclass names its `terms`, those of them that look at labels (`label_terms`), and how far both networks
    must run, and takes the run's Context and its options, as keywords without defaults. `active` holds the
    terms with a weight, all of them until `activate` says otherwise; `forward` returns these and no others.
    """

    terms: ClassVar[tuple[str, ...]]
    label_terms: ClassVar[tuple[str, ...]] = ()
    student_stop: ClassVar[Stop] = "logits"
    teacher_stop: ClassVar[Stop] = "logits"
    has_first_phase: ClassVar[bool] = False

    active: frozenset[str]

    def __init__(self) -> None:
        super().__init__()
        self.active = frozenset(self.terms)

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms; a method deletes what it learns or stores for the others alone."""
        self.active = terms

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """Raw values of the active terms, float32 scalars that lead gradients to the student only."""
        raise NotImplementedError

    def side_losses(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """Terms that train only an opponent or adapter of the method; one backward serves all."""
        return {}

    def param_groups(self) -> list[ParamGroup]:
        """Optimiser groups of the method's own parameters."""
        own = list(self.parameters())
        return [ParamGroup(own)] if own else []

    def prepare(self, teacher: nn.Module, batches: Iterator[Tensor]) -> None:
        """First phase on the frozen teacher, for methods with `has_first_phase`.

        Args:
            teacher: a Segmenter in eval mode.
            batches: images (B, 3, H, W), RGB in 0..255.
        """
        raise NotImplementedError(f"{type(self).__name__} has no first phase")
