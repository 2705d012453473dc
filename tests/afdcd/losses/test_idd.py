from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from contracts.method import STUDENT, TEACHER, MethodContract
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.errors import UserError
from afdcd.losses.idd import IDD, coordinates, inter_class_distance, position_information
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec, SegOutput

D = torch.float64
CASES: list[tuple[int, int, int, tuple[int, int], tuple[int, int], int]] = [
    (1, 2, 3, (3, 5), (3, 5), 2),
    (2, 3, 3, (4, 3), (9, 7), 4),
    (3, 5, 2, (5, 7), (15, 22), 3),
    (2, 4, 1, (1, 9), (3, 9), 6),
    (2, 1, 4, (3, 3), (11, 5), 2),
    (1, 3, 2, (1, 1), (4, 4), 5),
]
"""Images, student and teacher channels, size of maps, size of labels, classes."""


def random_case(case: Any, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    batch, ours, theirs, size, full, classes = case
    draw = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, ours, *size, generator=draw, dtype=D)
    teacher = torch.randn(batch, theirs, *size, generator=draw, dtype=D)
    # Class 1 never occurs, a third is ignored, and the last image holds one class only.
    labels = torch.randint(0, classes, (batch, *full), generator=draw)
    labels[labels == 1] = 0
    labels[torch.rand(labels.shape, generator=draw) < 0.3] = 255
    if batch > 1:
        labels[-1] = 0
    return student, teacher, labels


def naive_edges(image: Tensor, labels: Tensor) -> list[float]:
    """Distances of the means of all pairs of classes of one image, by loops over cells."""
    channels, height, width = image.shape
    found: dict[int, list[list[float]]] = {}
    for y in range(height):
        for x in range(width):
            label = labels[y * labels.shape[0] // height, x * labels.shape[1] // width].item()
            if label != 255:
                found.setdefault(int(label), []).append(image[:, y, x].tolist())
    means = [[sum(v[c] for v in found[k]) / len(found[k]) for c in range(channels)] for k in sorted(found)]
    return [
        math.sqrt(sum((a - b) ** 2 for a, b in zip(means[i], means[j], strict=True)) + 1e-12)
        for i in range(len(means))
        for j in range(i + 1, len(means))
    ]


def naive(student: Tensor, teacher: Tensor, labels: Tensor, scale: str) -> float:
    values = []
    for ours, theirs, here in zip(student, teacher, labels, strict=True):
        edges = [naive_edges(image, here) for image in (ours, theirs)]
        if not edges[0]:
            continue
        if scale == "mean":
            edges = [[e / (sum(image) / len(image)) for e in image] for image in edges]
        errors = [(a - b) ** 2 for a, b in zip(*edges, strict=True)]
        values.append(sum(errors) / len(errors))
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("scale", ["none", "mean"])
@pytest.mark.parametrize("case", CASES)
def test_distance_equals_the_loops(case: Any, scale: Any) -> None:
    student, teacher, labels = random_case(case, 1)
    expected = naive(student, teacher, labels, scale)
    value = inter_class_distance(student, teacher, labels, scale=scale)
    assert value.dtype == D and value.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    narrow = inter_class_distance(student.float(), teacher.float(), labels, scale=scale)
    assert narrow.dtype == torch.float32 and narrow.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_another_ignore_index() -> None:
    student, teacher, labels = random_case(CASES[2], 2)
    expected = inter_class_distance(student, teacher, labels)
    moved = labels.masked_fill(labels == 255, 9)
    torch.testing.assert_close(inter_class_distance(student, teacher, moved, ignore_index=9), expected)
    assert not torch.isclose(inter_class_distance(student, teacher, moved), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 5, 2), (1, 7, 7), (4, 1, 3)])
def test_position_information_equals_the_loops(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(3)
    ours, theirs = (torch.randn(shape[0], 2, *shape[1:], generator=draw, dtype=D) for _ in range(2))
    errors = [(a - b) ** 2 for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True)]
    expected = sum(errors) / len(errors)
    assert position_information(ours, theirs).item() == pytest.approx(expected, rel=1e-10)
    assert position_information(ours.float(), theirs.float()).item() == pytest.approx(expected, rel=1e-5)


def test_hand_values() -> None:
    labels = torch.tensor([[[0, 0, 3]]])
    student = torch.tensor([[1.0, -1.0, 3.0], [2.0, -2.0, 4.0]], dtype=D).view(1, 2, 1, 3)  # means 5 apart
    teacher = torch.tensor([[0.0, 2.0, 6.0], [0.0, 0.0, 12.0]], dtype=D).view(1, 2, 1, 3)  # and 13
    assert inter_class_distance(student, teacher, labels).item() == pytest.approx(64, abs=1e-9)
    assert inter_class_distance(student, teacher, labels, scale="mean").item() == pytest.approx(0, abs=1e-9)
    expected = [[[0, 0.5, 1], [0, 0.5, 1]], [[0, 0, 0], [1, 1, 1]]]
    assert coordinates(torch.zeros(4, 7, 2, 3))[0].tolist() == expected
    assert coordinates(torch.zeros(1, 7, 1, 1)).tolist() == [[[[0]], [[0]]]]


def rotated(features: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn([features.shape[1]] * 2, generator=draw, dtype=D)).Q
    return torch.einsum("dc,bchw->bdhw", turn, features)


@pytest.mark.parametrize("scale", ["none", "mean"])
def test_invariances(scale: Any) -> None:
    student, teacher, labels = random_case((3, 4, 5, (5, 6), (5, 6), 4), 4)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return inter_class_distance(s, t, labels, scale=scale)

    value = loss(student, teacher)
    torch.testing.assert_close(loss(rotated(student, 1), rotated(teacher, 2)), value)
    torch.testing.assert_close(loss(student + 3, teacher - torch.arange(5.0).view(1, 5, 1, 1)), value)
    both = loss(1.5 * student, 1.5 * teacher)
    torch.testing.assert_close(both, value * (2.25 if scale == "none" else 1))
    assert torch.isclose(loss(1.5 * student, teacher), value) == (scale == "mean")
    assert not torch.isclose(loss(student.flip(3), teacher), value)


@pytest.mark.parametrize("scale", ["none", "mean"])
def test_gradcheck_no_gradient_to_the_teacher_and_halves(scale: Any) -> None:
    draw = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(2, 2, 2, 3, generator=draw, dtype=D, requires_grad=True) for _ in "st")
    labels = torch.tensor([[[0, 1, 255], [2, 0, 1]], [[0, 1, 3], [2, 0, 1]]])

    def loss(s: Tensor) -> Tensor:
        return inter_class_distance(s, teacher, labels, scale=scale)

    assert torch.autograd.gradcheck(loss, student)
    whole = loss(student)
    whole.backward()
    assert teacher.grad is None
    halves = [
        inter_class_distance(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], scale=scale).item()
        for i in range(2)
    ]
    assert sum(halves) / 2 == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("label", [255, 4])
def test_without_a_pair_of_classes_it_is_a_zero_with_a_graph(label: int) -> None:
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = inter_class_distance(maps, maps.detach(), torch.full((2, 8, 8), label))
    value.backward()
    assert value.item() == 0 and maps.grad is not None and not maps.grad.any()


def test_equal_means_have_finite_gradients() -> None:
    maps = torch.ones(1, 3, 2, 2, requires_grad=True)
    for scale in ("none", "mean"):
        inter_class_distance(
            maps, torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]]]), scale=scale
        ).backward()
    assert maps.grad is not None and maps.grad.isfinite().all()


def test_an_unknown_scale_is_refused() -> None:
    maps = torch.zeros(1, 2, 2, 2)
    with pytest.raises(UserError, match="did you mean 'mean'"):
        inter_class_distance(maps, maps, torch.zeros(1, 2, 2), scale="means")  # type: ignore[arg-type]


class Teacher(nn.Module):
    """A frozen network whose features tell a cell's distance from the borders."""

    def forward(self, images: Tensor, *, stop: str) -> SegOutput:
        assert stop == "head_features" and not torch.is_grad_enabled()
        blurred = F.avg_pool2d(F.pad(torch.ones_like(images), [3] * 4), 7, 1)
        return SegOutput(None, (), torch.cat([blurred, images / 255], 1), None)


def images() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)
    while True:
        yield 255 * torch.rand(2, 3, 6, 8, generator=draw)


OPTIONS: dict[str, Any] = {"scale": "none", "first_phase_iterations": 80, "first_phase_lr": 0.01}


def test_the_first_phase_reads_positions_and_touches_the_teachers_encoder_alone() -> None:
    torch.manual_seed(0)
    spec = ChannelSpec((6,), 6, 3)
    method = IDD(Context(spec, spec, 255, None), **OPTIONS)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    features = Teacher().forward
    with torch.no_grad():
        seen = features(next(images()), stop="head_features").head_features
        assert seen is not None
        first = F.mse_loss(method.teacher_encoder(seen), coordinates(seen).expand(2, -1, -1, -1))
        with torch.enable_grad():
            method.prepare(Teacher(), images())
        last = F.mse_loss(method.teacher_encoder(seen), coordinates(seen).expand(2, -1, -1, -1))
    assert last < 0.25 * first and last < 0.05
    changed = {name for name, value in method.state_dict().items() if not value.equal(before[name])}
    assert changed and all(name.startswith("teacher_encoder.") for name in changed)
    assert not any(p.requires_grad for p in method.teacher_encoder.parameters())


def test_no_first_phase_without_its_term() -> None:
    method = IDD(Context(STUDENT, TEACHER, 255, None), **OPTIONS)
    method.active = frozenset({"inter_class_distance"})
    method.prepare(Teacher(), iter(()))


class TestContract(MethodContract):
    name: ClassVar[str] = "idd"
    options: ClassVar[dict[str, Any]] = OPTIONS
    falling: ClassVar[tuple[str, ...]] = ("inter_class_distance", "position_information")
    label_free: ClassVar[bool] = False
    of_labels: ClassVar[tuple[str, ...]] = ("inter_class_distance",)


class TestScaledContract(TestContract):
    options: ClassVar[dict[str, Any]] = {**OPTIONS, "scale": "mean"}
