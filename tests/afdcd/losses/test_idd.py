from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import D, assert_equal_forms, assert_gradcheck, assert_halves_average, maps, orthogonal
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.errors import UserError
from afdcd.losses.idd import IDD, coordinates, inter_class_distance, position_information
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec, SegOutput

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


def naive_edges(image: Tensor, labels: Tensor) -> list[Tensor]:
    """Distances of the means of all pairs of classes of one image, by loops over cells."""
    _, height, width = image.shape
    found: dict[int, list[Tensor]] = {}
    for y in range(height):
        for x in range(width):
            label = labels[y * labels.shape[0] // height, x * labels.shape[1] // width].item()
            if label != 255:
                found.setdefault(int(label), []).append(image[:, y, x])
    means = [torch.stack(found[k]).sum(0) / len(found[k]) for k in sorted(found)]
    return [
        (((means[i] - means[j]) ** 2).sum() + 1e-12).sqrt()
        for i in range(len(means))
        for j in range(i + 1, len(means))
    ]


def naive(student: Tensor, teacher: Tensor, labels: Tensor, scale: str) -> Tensor:
    total, images = 0 * student.sum(), 0
    for ours, theirs, here in zip(student, teacher, labels, strict=True):
        edges = [naive_edges(image, here) for image in (ours, theirs)]
        if not edges[0]:
            continue
        if scale == "mean":
            edges = [[e / torch.stack(image).mean() for e in image] for image in edges]
        errors = [(a - b) ** 2 for a, b in zip(*edges, strict=True)]
        total, images = total + torch.stack(errors).mean(), images + 1
    return total / max(images, 1)


@pytest.mark.parametrize("scale", ["none", "mean"])
@pytest.mark.parametrize("case", CASES)
def test_distance_equals_the_loops(case: Any, scale: Any) -> None:
    student, teacher, labels = random_case(case, 1)
    assert_equal_forms(
        lambda s, t: inter_class_distance(s, t, labels, scale=scale),
        lambda s, t: naive(s, t, labels, scale),
        student,
        teacher,
    )


def test_another_ignore_index() -> None:
    student, teacher, labels = random_case(CASES[2], 2)
    expected = inter_class_distance(student, teacher, labels)
    moved = labels.masked_fill(labels == 255, 9)
    torch.testing.assert_close(inter_class_distance(student, teacher, moved, ignore_index=9), expected)
    assert not torch.isclose(inter_class_distance(student, teacher, moved), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 5, 2), (1, 7, 7), (4, 1, 3)])
def test_position_information_equals_the_loops(shape: tuple[int, int, int]) -> None:
    batch, height, width = shape

    def loops(ours: Tensor, theirs: Tensor) -> Tensor:
        total = torch.zeros((), dtype=ours.dtype)
        for b in range(batch):
            for i in range(2):
                for y in range(height):
                    for x in range(width):
                        total = total + (ours[b, i, y, x] - theirs[b, i, y, x]) ** 2
        return total / (batch * 2 * height * width)

    assert_equal_forms(position_information, loops, *maps(*[(batch, 2, height, width)] * 2, seed=3))


def test_hand_values() -> None:
    labels = torch.tensor([[[0, 0, 3]]])
    student = torch.tensor([[1.0, -1.0, 3.0], [2.0, -2.0, 4.0]], dtype=D).view(1, 2, 1, 3)  # means 5 apart
    teacher = torch.tensor([[0.0, 2.0, 6.0], [0.0, 0.0, 12.0]], dtype=D).view(1, 2, 1, 3)  # and 13
    assert inter_class_distance(student, teacher, labels).item() == pytest.approx(64, abs=1e-9)
    assert inter_class_distance(student, teacher, labels, scale="mean").item() == pytest.approx(0, abs=1e-9)
    expected = [[[0, 0.5, 1], [0, 0.5, 1]], [[0, 0, 0], [1, 1, 1]]]
    assert coordinates(torch.zeros(4, 7, 2, 3))[0].tolist() == expected
    assert coordinates(torch.zeros(1, 7, 1, 1)).tolist() == [[[[0]], [[0]]]]


@pytest.mark.parametrize("scale", ["none", "mean"])
def test_invariances(scale: Any) -> None:
    student, teacher, labels = random_case((3, 4, 5, (5, 6), (5, 6), 4), 4)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return inter_class_distance(s, t, labels, scale=scale)

    value = loss(student, teacher)
    torch.testing.assert_close(loss(orthogonal(4)(student), orthogonal(5)(teacher)), value)
    torch.testing.assert_close(loss(student + 3, teacher - torch.arange(5.0).view(1, 5, 1, 1)), value)
    both = loss(1.5 * student, 1.5 * teacher)
    torch.testing.assert_close(both, value * (2.25 if scale == "none" else 1))
    assert torch.isclose(loss(1.5 * student, teacher), value) == (scale == "mean")
    assert not torch.isclose(loss(student.flip(3), teacher), value)


@pytest.mark.parametrize("scale", ["none", "mean"])
def test_gradcheck_and_halves(scale: Any) -> None:
    student, teacher = maps((2, 2, 2, 3), (2, 3, 2, 3), seed=5)
    labels = torch.tensor([[[0, 1, 255], [2, 0, 1]], [[0, 1, 3], [2, 0, 1]]])
    assert_gradcheck(lambda s, t: inter_class_distance(s, t, labels, scale=scale), student, teacher)
    assert_halves_average(
        lambda s, t, y: inter_class_distance(s, t, y, scale=scale), student, teacher, labels
    )


def test_gradcheck_and_halves_of_positions() -> None:
    places = maps((3, 2, 2, 3), (3, 2, 2, 3), seed=6)
    assert_gradcheck(position_information, *places)
    assert_halves_average(position_information, *places)


def test_images_with_one_class_do_not_count() -> None:
    # Hence the halves do not average where an image has no pair of classes.
    student, teacher = maps((2, 2, 2, 3), (2, 2, 2, 3), seed=5)
    labels = torch.tensor([[[0, 1, 255], [2, 0, 1]], [[4, 4, 255], [4, 4, 4]]])
    alone = inter_class_distance(student[:1], teacher[:1], labels[:1])
    torch.testing.assert_close(inter_class_distance(student, teacher, labels), alone)


@pytest.mark.parametrize("scale", ["none", "mean"])
@pytest.mark.parametrize("closeness", [0.0, 1e-4, 1e-2])
def test_near_the_teacher_float32_keeps_the_stated_rounding(closeness: float, scale: Any) -> None:
    _, teacher, labels = random_case(CASES[2], 7)
    teacher = (3 + teacher).float()
    student = teacher + closeness * maps(tuple(teacher.shape), seed=8)[0].float()
    expected = inter_class_distance(student.double(), teacher.double(), labels, scale=scale).item()
    value = inter_class_distance(student, teacher, labels, scale=scale).item()
    # Means of vectors of length 4 or so, a difference of 1e-6 at most in an edge e: 2 e 1e-6 in its square.
    error = 1e-6 + 2 * expected**0.5
    assert abs(value - expected) < 1e-6 * error
    assert closeness > 0 or value == 0


def test_maps_that_differ_are_refused_with_both_shapes() -> None:
    (student,) = maps((2, 2, 3, 5))
    labels = torch.zeros(2, 3, 5, dtype=torch.int64)
    for shape in ((2, 2, 3, 4), (1, 2, 3, 5)):
        for loss in (lambda s, t: inter_class_distance(s, t, labels), position_information):
            with pytest.raises(UserError, match=r"\(2, 2, 3, 5\), the teacher's \(") as error:
                loss(student, *maps(shape))
            assert str(shape) in str(error.value)


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


def test_the_first_phase_sees_as_many_batches_as_asked() -> None:
    spec, batches = ChannelSpec((6,), 6, 3), islice(images(), 5)
    IDD(Context(spec, spec, 255, None), **{**OPTIONS, "first_phase_iterations": 4}).prepare(
        Teacher(), batches
    )
    assert len(list(batches)) == 1


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

    def test_each_term_is_its_function(self) -> None:
        torch.manual_seed(0)
        method = IDD(Context(STUDENT, TEACHER, 1, None), **self.options)
        student, teacher, here = output(STUDENT, 1), output(TEACHER, 2), target()
        guesses = method.student_encoder(student.head_features), method.teacher_encoder(teacher.head_features)
        distances = (student.head_features, teacher.head_features, here.labels)
        expected = {
            "inter_class_distance": inter_class_distance(
                *distances, ignore_index=1, scale=self.options["scale"]
            ),
            "position_information": position_information(*guesses),
        }
        torch.testing.assert_close(method(student, teacher, here), expected)
        assert method(student, teacher, here)["inter_class_distance"] != inter_class_distance(
            *distances, scale=self.options["scale"]
        )


class TestScaledContract(TestContract):
    options: ClassVar[dict[str, Any]] = {**OPTIONS, "scale": "mean"}
