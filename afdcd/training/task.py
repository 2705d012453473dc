"""What the loop drives: a task owns forward pass and loss; the supervised one stands here."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.config import IGNORE_INDEX
from afdcd.data.loader import Batch
from afdcd.losses.cross_entropy import cross_entropy
from afdcd.losses.method import ParamGroup
from afdcd.models.output import SegOutput
from afdcd.models.segmenter import Segmenter
from afdcd.training.precision import Precision
from afdcd.training.teacher import Awaited, Start

Terms = dict[str, Tensor]
"""`loss`, then every term raw under its name and weighted under `weighted/name`; scalars."""


class Share(NamedTuple):
    """What a part of a batch counts in the whole, so that parts and processes add up to one global batch.

    Attributes:
        images: the part's images over this process's images.
        labels: the part's label mass (`Task.mass`) over the mean label mass of a process.
    """

    images: float
    labels: Tensor


class Task(Protocol):
    """A training task; `learner` holds all that is trained (one DDP wrapper, one checkpoint)."""

    learner: nn.Module
    student: Segmenter

    def networks(self) -> list[nn.Module]:
        """Networks that take images: what may be compiled, each by itself."""
        ...

    def groups(self) -> list[ParamGroup]:
        """Parameters with their settings: the student's first, then those of adapters."""
        ...

    def mass(self, labels: Tensor) -> Tensor:
        """The sum that divides the supervised loss of `labels` (B, H, W); a scalar."""
        ...

    def teacher_start(self) -> Start | None:
        """What begins the teacher's pass over images, if it gains by running beside the step before."""
        ...

    def losses(self, learner: nn.Module, batch: Batch, share: Share, teacher: Awaited | None = None) -> Terms:
        """Losses of one part of a batch, each already times its share.

        `learner` may be wrapped for DDP; `teacher` is the teacher's pass over the part where it was begun.
        """
        ...


class Supervision(nn.Module):
    """Cross-entropy against labels, on the main and the auxiliary logits."""

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | None, auxiliary_weight: float) -> None:
        """Keep `class_weights`, (K,) or None, and what the auxiliary head's loss counts."""
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.auxiliary_weight = auxiliary_weight

    def mass(self, labels: Tensor) -> Tensor:
        """Sum of the class weights of all labelled pixels of (B, H, W)."""
        if self.class_weights is None:
            return (labels != IGNORE_INDEX).sum().float()
        table = F.pad(self.class_weights, (0, IGNORE_INDEX + 1 - len(self.class_weights)))
        return table.take(labels.long()).sum()

    def forward(self, output: SegOutput, labels: Tensor) -> tuple[Terms, dict[str, float]]:
        """Raw terms `ce` and, where there is an auxiliary head, `auxiliary`; and their weights."""
        assert output.logits is not None, "the student must run to its logits"
        weights = {"ce": 1.0}
        terms = {"ce": self._cross_entropy(output.logits, labels)}
        if output.aux is not None:
            weights["auxiliary"] = self.auxiliary_weight
            terms["auxiliary"] = self._cross_entropy(output.aux, labels)
        return terms, weights

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, class_weights=self.class_weights)


def weighted(terms: Terms, weights: dict[str, float], share: float | Tensor) -> Terms:
    """Raw and weighted terms times `share`; the weighted ones are what the loss adds."""
    scaled: Terms = {}
    for name, value in terms.items():
        scaled[name] = value * share
        scaled[f"weighted/{name}"] = scaled[name] * weights[name]
    return scaled


def with_loss(terms: Terms) -> Terms:
    """The terms after their weighted sum, `loss`."""
    parts = [value for name, value in terms.items() if name.startswith("weighted/")]
    return {"loss": torch.stack(parts).sum(), **terms}


class SupervisedLearner(nn.Module):
    """A network and its labels' loss as one module, so that DDP sees one forward pass."""

    def __init__(self, student: Segmenter, supervision: Supervision) -> None:
        super().__init__()
        self.student = student
        self.supervision = supervision

    def forward(self, images: Tensor, labels: Tensor, share: Share) -> Terms:
        """Images (B, 3, H, W), labels (B, H, W) to terms."""
        terms, weights = self.supervision(self.student(images), labels)
        return with_loss(weighted(terms, weights, share.labels))


class SupervisedTask:
    """A network learns from labels alone: the teacher, and the control student."""

    def __init__(self, student: Segmenter, supervision: Supervision, precision: Precision) -> None:
        self.student = student
        self.supervision = supervision
        self.precision = precision
        self.learner: nn.Module = SupervisedLearner(student, supervision)

    def networks(self) -> list[nn.Module]:
        """The one network."""
        return [self.student]

    def groups(self) -> list[ParamGroup]:
        """The network's parameters; nothing is clipped."""
        return [ParamGroup(list(self.student.parameters()), clip=False)]

    def mass(self, labels: Tensor) -> Tensor:
        """Sum of the class weights of all labelled pixels of (B, H, W)."""
        return self.supervision.mass(labels)

    def teacher_start(self) -> None:
        """There is no teacher."""
        return

    def losses(self, learner: nn.Module, batch: Batch, share: Share, teacher: Awaited | None = None) -> Terms:
        """Terms `ce` and `auxiliary` of one part of a batch."""
        with self.precision.context():
            terms: Terms = learner(batch.images, batch.labels, share)
        return terms
