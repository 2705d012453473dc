from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    assert_rounding_near,
    maps,
    of_squared_cosines,
    orthogonal,
    vectors,
)
from contracts.method import STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.ifvd import IntraClassVariation, intra_class_variation
from afdcd.losses.method import Context

CASES = [
    # features' batch, size; channels of both; labels' size, classes
    ((1, 1, 3), (2, 2), (1, 3), 1),
    ((2, 4, 5), (3, 6), (9, 11), 3),
    ((3, 3, 1), (4, 2), (24, 8), 5),
    ((1, 5, 3), (5, 5), (5, 3), 2),
    ((2, 3, 3), (2, 7), (7, 10), 4),
]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum() / (first.square().sum().sqrt() * second.square().sum().sqrt())


def naive_nearness(features: Tensor, labels: Tensor, ignore: int) -> dict[tuple[int, int], Tensor]:
    """One image's cosines to class centres; ignored cells have none."""
    _, height, width = features.shape
    rows, columns = labels.shape
    of_class: dict[int, list[tuple[int, int]]] = {}
    for y in range(height):
        for x in range(width):
            label = int(labels[math.floor(y * rows / height), math.floor(x * columns / width)])
            if label != ignore:
                of_class.setdefault(label, []).append((y, x))
    found = {}
    for cells in of_class.values():
        centre = sum(features[:, y, x] for y, x in cells) / len(cells)
        for y, x in cells:
            found[y, x] = cosine(features[:, y, x], centre)
    return found


def naive(student: Tensor, teacher: Tensor, labels: Tensor, ignore: int) -> Tensor:
    total = 0 * student.sum()
    for s_image, t_image, l_image in zip(student, teacher, labels, strict=True):
        s, t = (naive_nearness(image, l_image, ignore) for image in (s_image, t_image))
        for place in s:
            total = total + (s[place] - t[place]) ** 2
    return total / (student.shape[0] * student.shape[2] * student.shape[3])


def case(index: int, ignore: int = 255) -> tuple[Tensor, Tensor, Tensor]:
    (batch, *size), channels, pixels, classes = CASES[index]
    student, teacher = maps(*((batch, count, *size) for count in channels), seed=index)
    draw = torch.Generator().manual_seed(index)
    # Every third class is absent, and one choice more is ignored.
    ids = torch.tensor([*range(1, 3 * classes, 3), ignore])
    return student, teacher, ids[torch.randint(0, classes + 1, (batch, *pixels), generator=draw)]


@pytest.mark.parametrize("index", range(len(CASES)))
@pytest.mark.parametrize("ignore", [255, -1])
def test_equals_the_loops(index: int, ignore: int) -> None:
    student, teacher, labels = case(index, ignore)
    assert_equal_forms(
        lambda s, t: intra_class_variation(s, t, labels, ignore_index=ignore),
        lambda s, t: naive(s, t, labels, ignore),
        student,
        teacher,
    )


def test_hand_values() -> None:
    student, teacher = vectors((1.0, 0.0), (1.0, 0.0)), vectors((1.0, 0.0), (0.0, 1.0))
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    value = intra_class_variation(student, teacher, labels)
    assert value.item() == pytest.approx(0.085786438, abs=1e-9)
    # With one of the two cells ignored the other is its own centre; with classes of their own both are.
    for other in ([0, 255], [0, 1]):
        assert intra_class_variation(student, teacher, torch.tensor([[other]])).item() == pytest.approx(0)
    # An ignored third cell adds nothing but counts in the mean.
    more = (torch.cat([x, 5 * x[..., 1:]], -1) for x in (student, teacher))
    third = intra_class_variation(*more, torch.tensor([[[0, 0, 255]]]))
    assert third.item() == pytest.approx(0.085786438 * 2 / 3, abs=1e-9)


def test_invariances() -> None:
    student, teacher, labels = case(1)
    value = intra_class_variation(student, teacher, labels)
    per_image = torch.tensor([0.5, 3.0]).view(2, 1, 1, 1)
    for other in (student * per_image, orthogonal(3)(student)):
        torch.testing.assert_close(intra_class_variation(other, teacher, labels), value)
    for other in (teacher * per_image, orthogonal(6)(teacher)):
        torch.testing.assert_close(intra_class_variation(student, other, labels), value)
    renamed = torch.where(labels == 255, 255, 200 - labels)
    torch.testing.assert_close(intra_class_variation(student, teacher, renamed), value)
    per_pixel = maps((2, 1, 4, 5), seed=9)[0].exp()
    assert not torch.isclose(intra_class_variation(student * per_pixel, teacher, labels), value, rtol=1e-3)
    assert not torch.isclose(intra_class_variation(student, teacher, labels.flip(-1)), value, rtol=1e-3)
    swapped = intra_class_variation(student, teacher, labels.flip(0))
    assert not torch.isclose(swapped, value, rtol=1e-3)


def test_ignored_features_do_not_matter() -> None:
    student, teacher, labels = case(3)
    hole = (labels == 255)[:, None]
    assert hole.any()
    value = intra_class_variation(student, teacher, labels)
    changed = torch.where(hole, 100.0, student)
    torch.testing.assert_close(intra_class_variation(changed, teacher, labels), value)


def test_gradient_passes_through_the_centres() -> None:
    student, teacher, labels = case(4)
    assert_gradcheck(lambda s, t: intra_class_variation(s, t, labels), student, teacher)
    assert_halves_average(intra_class_variation, student, teacher, labels)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(scale: float) -> None:
    labels = torch.arange(2 * 9 * 7).view(2, 9, 7) % 5
    labels[:, :2] = 255
    assert_rounding_near(
        lambda s, t: intra_class_variation(s, t, labels), of_squared_cosines, (2, 5, 9, 7), scale=scale
    )


def test_an_image_of_one_class_beside_one_without_labels() -> None:
    student, teacher, labels = case(2)
    labels[0], labels[1] = 4, 255
    assert_equal_forms(
        lambda s, t: intra_class_variation(s, t, labels),
        lambda s, t: naive(s, t, labels, 255),
        student,
        teacher,
    )


def test_dead_cells_have_finite_gradients() -> None:
    student, teacher, labels = (x.float() if x.is_floating_point() else x for x in case(1))
    student[:, :, 1:3] = 0
    intra_class_variation(student.requires_grad_(), teacher, labels).backward()
    assert student.grad is not None and student.grad.abs().max() < 10


def test_nothing_labelled_is_a_zero_with_a_graph() -> None:
    student, teacher, labels = case(1)
    value = intra_class_variation(student.requires_grad_(), teacher, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0 and student.grad is not None and not student.grad.any()


def test_other_grids_are_refused() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(UserError, match=r"intra-class variation: .*1, 3, 2, 2\).*1, 3, 2, 4\)"):
        intra_class_variation(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 4), labels)


class TestContract(MethodContract):
    name: ClassVar[str] = "ifvd"
    options: ClassVar[dict[str, Any]] = {}
    falling: ClassVar[tuple[str, ...]] = ("intra_class",)
    label_free: ClassVar[bool] = False

    def test_the_runs_labels_and_ignore_index_are_read(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        assert student.head_features is not None and teacher.head_features is not None
        found = self.build()(student, teacher, target())["intra_class"]
        expected = intra_class_variation(student.head_features, teacher.head_features, target().labels)
        assert found.equal(expected)
        other = Context(STUDENT, TEACHER, 1, None)
        found = IntraClassVariation(other)(student, teacher, target())["intra_class"]
        expected = intra_class_variation(
            student.head_features, teacher.head_features, target().labels, ignore_index=1
        )
        assert found.equal(expected)
