"""Distillation as a task: a frozen teacher beside a learner of student, adapters and objective."""

from __future__ import annotations

from torch import Tensor, nn

from afdcd.data.loader import Batch
from afdcd.losses.method import ParamGroup, Target
from afdcd.losses.objective import Objective, furthest
from afdcd.models.segmenter import Segmenter
from afdcd.training.precision import Precision
from afdcd.training.task import Share, Supervision, Terms, weighted, with_loss
from afdcd.training.teacher import Awaited, FrozenTeacher, Start


class DistillationLearner(nn.Module):
    """Student, adapters and objective as one module, so that DDP sees one forward pass."""

    def __init__(self, student: Segmenter, supervision: Supervision, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.supervision = supervision
        self.objective = objective
        self.stop = furthest(["logits", objective.student_stop])

    def forward(self, images: Tensor, target: Target, awaited: Awaited, share: Share) -> Terms:
        """Images (B, 3, H, W) and the teacher's output, asked for as late as may be, to terms."""
        output = self.student(images, stop=self.stop)
        supervised, weights = self.supervision(output, target.labels)
        terms = weighted(supervised, weights, share.labels)
        teacher = awaited()
        terms |= weighted(self.objective(output, teacher, target), self.objective.weights, share.images)
        side = self.objective.side_losses(output, teacher, target)
        return with_loss(terms | weighted(side, dict.fromkeys(side, 1.0), share.images))


class DistillationTask:
    """A student learns from labels and from a frozen teacher.

    The teacher stays outside the learner, in eval mode, without gradients, and stops where the objective
    allows. A part of a batch (a micro-batch, a process's share) counts by its number of images: exact for
    terms that are means over images or pixels. A term that divides by a sum over the batch (class-weighted
    KD) or joins its images (DIST's correlations, APD's prototypes of the batch, CIRKD's relations) is taken
    on each part instead, and the mean over parts is not quite the term of the whole batch.
    """

    def __init__(
        self,
        student: Segmenter,
        teacher: Segmenter,
        objective: Objective,
        supervision: Supervision,
        precision: Precision,
        teacher_precision: Precision,
    ) -> None:
        self.student = student
        self.supervision = supervision
        self.objective = objective
        self.precision = precision
        self.learner: nn.Module = DistillationLearner(student, supervision, objective)
        self._teacher = teacher
        self._frozen = FrozenTeacher(teacher, objective.teacher_stop, teacher_precision)

    def networks(self) -> list[nn.Module]:
        """Student and teacher."""
        return [self.student, self._teacher]

    def groups(self) -> list[ParamGroup]:
        """The student's parameters, then those of the methods."""
        return [ParamGroup(list(self.student.parameters()), clip=False), *self.objective.param_groups()]

    def mass(self, labels: Tensor) -> Tensor:
        """Sum of the class weights of all labelled pixels of (B, H, W)."""
        return self.supervision.mass(labels)

    def teacher_start(self) -> Start | None:
        """What begins the teacher's pass, where it gains by running beside a step in float32.

        Not beside one under autocast, whose cache of weights is that of all threads.
        """
        return self._frozen.start if self._frozen.gains_beside() and not self.precision.bf16 else None

    def losses(self, learner: nn.Module, batch: Batch, share: Share, teacher: Awaited | None = None) -> Terms:
        """Terms `ce`, `auxiliary` and those of the methods, of one part of a batch."""
        awaited = teacher or self._frozen.start(batch.images)
        with self.precision.context():
            terms: Terms = learner(batch.images, Target(batch.labels.long(), batch.keys), awaited, share)
        return terms
