"""Knowledge adaptation (He et al., CVPR 2019, arXiv 1903.04688): the teacher's features in a learnt code.

A first phase fits an auto-encoder to the teacher's last stage and keeps its encoder; the student then meets
the code, cell by cell and in how cells resemble each other. The paper's text was not at hand: what is said
here follows reading notes of it, and choices that these leave open are named where they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from afdcd.config import Count, NonNegative, Positive
from afdcd.errors import UserError
from afdcd.losses.inputs import full_precision, require_equal_grids, require_equal_shapes, unit_vectors, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop

_SLOPE = 0.1
"""Of the encoder's and decoder's leaky ReLU."""


def feature_adaptation(student: Tensor, teacher: Tensor, *, p: float = 1, q: float = 2) -> Tensor:
    """Mean over all cells of || s / ||s||_q - t / ||t||_q ||_p, norms over channels (KA, adaptation term).

    p and q are not stated in what was read of the paper; these are torchdistill's, which however normalises
    whole images. A cell of zeros stays zero. Near a perfect student the rounding of float32 leaves about 1e-7
    a channel.

    Args:
        student: (B, C, H, W), adapted to the code's width.
        teacher: (B, C, H, W), the code, detached here.
        p: of the norm of the difference, at least 1.
        q: of the norm that cells are divided by, at least 1.

    Raises:
        UserError: the shapes differ, or a norm is below 1.
    """
    require_equal_shapes(student, teacher, "feature adaptation")
    if p < 1 or q < 1:
        raise UserError(f"feature adaptation: p {p} and q {q} must be at least 1")
    with full_precision(student):
        ours, theirs = (unit_vectors(wide(x), order=q) for x in (student, teacher.detach()))
        distances: Tensor = torch.linalg.vector_norm(ours - theirs, p, 1)
        return distances.mean()


def affinity(student: Tensor, teacher: Tensor) -> Tensor:
    """How cells resemble each other (KA, affinity term): sum_i || A^S_i - A^T_i ||_2, mean over images.

    A_ij is the cosine of cells i and j divided by their number m. Near a perfect student each row keeps
    about 1e-7 / sqrt(m) from the rounding of float32.

    Args:
        student: (B, C_S, H, W).
        teacher: (B, C_T, H, W), detached here; only cosines are compared, so channels may differ.

    Raises:
        UserError: the maps differ in batch or size.
    """
    require_equal_grids(student, teacher, "affinity")
    with full_precision(student):
        difference = _cosines(student) - _cosines(teacher.detach())
        rows: Tensor = torch.linalg.vector_norm(difference, dim=2)
        return rows.sum(1).mean() / difference.shape[-1]


def reconstruction(restored: Tensor, features: Tensor, code: Tensor, *, sparsity: float = 1e-7) -> Tensor:
    """Mean squared error of the decoder plus `sparsity` times the code's L1 norm, averaged over images.

    The paper's squared norm is taken as a mean over elements, so that its learning rate of 0.1 holds.

    Args:
        restored: (B, C, H, W), the decoder's.
        features: (B, C, H, W), the teacher's.
        code: (B, C', H', W'), the encoder's.
        sparsity: the weight written as "10e-7", read as 1e-7.
    """
    with full_precision(restored):
        error = (wide(restored) - wide(features)).square().mean()
        return error + sparsity * wide(code).abs().sum() / len(code)


class Encoder(nn.Sequential):
    """Three 3x3 convolutions, each with BatchNorm and a leaky ReLU: C channels to C, C/2 and C/2."""

    def __init__(self, channels: int, stride: int) -> None:
        half = max(1, channels // 2)
        layers: list[nn.Module] = []
        for given, wanted, step in ((channels, channels, stride), (channels, half, 1), (half, half, 1)):
            layers += [
                nn.Conv2d(given, wanted, 3, step, 1, bias=False),
                nn.BatchNorm2d(wanted),
                nn.LeakyReLU(_SLOPE),
            ]
        super().__init__(*layers)


class Decoder(nn.Module):
    """The encoder backwards, in transposed convolutions; the last one is linear."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.inner = nn.Sequential(
            *(
                nn.ConvTranspose2d(half, half, 3, 1, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.LeakyReLU(_SLOPE),
            ),
            *(nn.ConvTranspose2d(half, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)),
            nn.LeakyReLU(_SLOPE),
        )
        self.last = nn.ConvTranspose2d(channels, channels, 3, stride, 1)

    def forward(self, code: Tensor, size: list[int]) -> Tensor:
        """The code (B, C/2, h', w') as features (B, C, *size)."""
        restored: Tensor = self.last(self.inner(code), output_size=size)
        return restored


class KA(Method):
    """Adaptation to the teacher's code, and affinity with it, on the backbone's last stage."""

    terms: ClassVar[tuple[str, ...]] = ("feature_adaptation", "affinity")
    student_stop: ClassVar[Stop] = "features"
    teacher_stop: ClassVar[Stop] = "features"
    has_first_phase: ClassVar[bool] = True

    def __init__(
        self,
        context: Context,
        *,
        p: Positive,
        q: Positive,
        stride: Count,
        sparsity: NonNegative,
        first_phase_iterations: Count,
        first_phase_lr: Positive,
    ) -> None:
        """Build the encoder, frozen, and the student's two ways to its width.

        Args:
            context: the run's shapes.
            p: of the norm of the difference.
            q: of the norm that cells are divided by.
            stride: of the encoder's first convolution: the student's output stride over the teacher's.
            sparsity: weight of the code's L1 norm in the first phase.
            first_phase_iterations: batches that the auto-encoder sees; one epoch in the paper.
            first_phase_lr: of its SGD (momentum 0.9, weight decay 1e-4); 0.1 in the paper.
        """
        super().__init__()
        width, channels = context.student.features[-1], context.teacher.features[-1]
        code = max(1, channels // 2)
        self.p, self.q, self.stride, self.sparsity = p, q, stride, sparsity
        self.first_phase_iterations, self.first_phase_lr = first_phase_iterations, first_phase_lr
        self.encoder = Encoder(channels, stride).requires_grad_(False).eval()
        self.cells = nn.Sequential(
            nn.Conv2d(width, code, 3, padding=1, bias=False), nn.BatchNorm2d(code), nn.ReLU()
        )
        self.relations = nn.Conv2d(width, code, 3, padding=1)

    def train(self, mode: bool = True) -> Self:
        """As any module's, but the encoder keeps the statistics of its first phase."""
        super().train(mode)
        self.encoder.eval()
        return self

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms, and of the student's two ways those that they take."""
        super().activate(terms)
        if "feature_adaptation" not in terms:
            del self.cells
        if "affinity" not in terms:
            del self.relations

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "feature_adaptation" and "affinity".

        Raises:
            UserError: the student's map and the code differ in size.
        """
        features = student.features[-1]
        with torch.no_grad():
            code = self.encoder(teacher.features[-1])
        values: dict[str, Tensor] = {}
        if "feature_adaptation" in self.active:
            values["feature_adaptation"] = feature_adaptation(self.cells(features), code, p=self.p, q=self.q)
        if "affinity" in self.active:
            values["affinity"] = affinity(self.relations(features), code)
        return values

    def prepare(self, teacher: nn.Module, batches: Iterator[Tensor]) -> None:
        """Fit encoder and decoder to the teacher's features; the decoder is dropped.

        Args:
            teacher: a Segmenter in eval mode.
            batches: images (B, 3, H, W), RGB in 0..255.
        """
        encoder = self.encoder.train().requires_grad_(True)
        first = next(encoder.parameters())
        decoder = Decoder(first.shape[1], self.stride).to(first.device)
        learnt = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.SGD(learnt, self.first_phase_lr, momentum=0.9, weight_decay=1e-4)
        for _ in range(self.first_phase_iterations):
            with torch.no_grad():
                features = wide(teacher(next(batches), stop="features").features[-1])
            code = encoder(features)
            restored = decoder(code, list(features.shape[-2:]))
            loss = reconstruction(restored, features, code, sparsity=self.sparsity)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        encoder.eval().requires_grad_(False)


def _cosines(features: Tensor) -> Tensor:
    """(B, C, H, W) to the cosines of all pairs of cells, (B, m, m)."""
    cells = unit_vectors(wide(features).flatten(2))
    return cells.mT @ cells
