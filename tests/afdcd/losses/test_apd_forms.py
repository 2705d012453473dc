from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    maps,
    orthogonal,
    vectors,
)
from torch import Tensor
from torch.nn import functional as F

from afdcd.errors import UserError
from afdcd.losses.apd import adaptive_perspective

CASES: list[tuple[tuple[int, int, int, int], tuple[int, int], int]] = [
    ((1, 2, 3, 5), (3, 5), 3),
    ((2, 3, 4, 3), (9, 7), 5),
    ((3, 4, 1, 7), (5, 14), 4),
    ((2, 5, 3, 3), (7, 11), 2),
    ((1, 3, 1, 1), (4, 3), 3),
    ((2, 2, 5, 4), (10, 8), 6),
]
"""Shape of the maps, size of the labels, classes."""


def labels_of(case: Any, seed: int = 0) -> Tensor:
    """Random labels: a third ignored, class 1 absent, the last of several images without any."""
    (batch, *_), size, classes = case
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, *size), generator=draw)
    labels[labels == 1] = 0
    labels[torch.rand(labels.shape, generator=draw) < 0.3] = 255
    if batch == 3:
        labels[-1] = 255
    return labels


def cell_label(labels: Tensor, y: int, x: int, size: tuple[int, int]) -> int:
    return int(labels[y * labels.shape[0] // size[0], x * labels.shape[1] // size[1]])


def naive_view(features: Tensor, labels: Tensor, classes: int) -> tuple[dict[int, Tensor], Tensor]:
    """Prototypes of the classes that the images hold, and cells at unit length, by loops."""
    batch, channels, height, width = features.shape
    sums: dict[int, list[Tensor]] = {}
    cells = torch.zeros(batch, height, width, channels, dtype=features.dtype)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                vector = features[b, :, y, x]
                # A dead cell stays as it is.
                cells[b, y, x] = vector / vector.square().sum().sqrt() if vector.any() else vector
                label = cell_label(labels[b], y, x, (height, width))
                if label < classes:
                    sums.setdefault(label, []).append(cells[b, y, x])
    prototypes = {}
    for k, found in sorted(sums.items()):
        mean = torch.stack(found).mean(0)
        prototypes[k] = mean / mean.square().sum().sqrt()
    return prototypes, cells


def naive(student: Tensor, teacher: Tensor, labels: Tensor, classes: int, temperature: float) -> list[Tensor]:
    """METHODS 3 for one perspective of all given images: local, teacher_ce, align."""
    (q, u), (r, v) = (naive_view(x, labels, classes) for x in (student, teacher))
    batch, _, height, width = student.shape
    zero = torch.zeros((), dtype=student.dtype)
    local, logits = zero, torch.zeros(batch, classes, height, width, dtype=student.dtype)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if not q:
                    continue
                a = torch.stack([u[b, y, x] @ q[k] / temperature for k in q])
                z = torch.stack([v[b, y, x] @ r[k] / temperature for k in r])
                p = z.exp() / z.exp().sum()
                local = local + (p * (p.log() - (a.exp() / a.exp().sum()).log())).sum()
                for i, k in enumerate(r):
                    logits[b, k, y, x] = z[i]
    local = local / (batch * max(len(q), 1) * height * width)
    full = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=True)
    losses = [
        full[b, :, y, x].logsumexp(0) - full[b, labels[b, y, x], y, x]
        for b in range(batch)
        for y in range(labels.shape[1])
        for x in range(labels.shape[2])
        if labels[b, y, x] != 255
    ]
    apart = [(1 - q[k] @ r[k]) / 2 for k in q]
    return [
        local,
        torch.stack(losses).mean() if losses else zero,
        torch.stack(apart).mean() if apart else zero,
    ]


def naive_by_image(*arguments: Any) -> list[Tensor]:
    student, teacher, labels, classes, temperature = arguments
    parts = [
        naive(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], classes, temperature)
        for i in range(len(student))
    ]
    return [torch.stack(values).mean() for values in zip(*parts, strict=True)]


@pytest.mark.parametrize("prototypes", ["batch", "image"])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case: Any, temperature: float, prototypes: Any) -> None:
    shape, _, classes = case
    student, teacher = maps(shape, shape, seed=1)
    if shape[3] > 1:
        student[0, :, 0, 0] = teacher[-1, :, -1, -1] = 0
    labels = labels_of(case)
    slow = naive if prototypes == "batch" else naive_by_image
    options: dict[str, Any] = {
        "temperature": temperature,
        "num_classes": classes,
        "prototypes": prototypes,
    }
    expected = slow(student, teacher, labels, classes, temperature)
    assert all(value.isfinite() for value in expected)
    for index in (0, 2):
        assert_equal_forms(
            lambda s, t, i=index: adaptive_perspective(s, t, labels, **options)[i],
            # A zero without cells has no graph in the loops.
            lambda s, t, i=index: slow(s, t, labels, classes, temperature)[i] + 0 * s.sum(),
            student,
            teacher,
        )
    assert_equal_forms(
        lambda t, s: adaptive_perspective(s, t, labels, **options)[1],
        lambda t, s: slow(s, t, labels, classes, temperature)[1] + 0 * t.sum(),
        teacher,
        student,
    )


def test_hand_values() -> None:
    labels = torch.tensor([[[0, 1]]])
    student, teacher = vectors((1.0, 0.0), (0.0, 1.0)), vectors((0.0, 1.0), (1.0, 0.0))
    local, ce, align = adaptive_perspective(student, teacher, labels, num_classes=2)
    assert [local.item(), ce.item(), align.item()] == pytest.approx([0, 4.53989e-5, 0.5], abs=1e-9)
    assert ce.item() == pytest.approx(math.log(1 + math.exp(-10)), abs=1e-12)
    assert adaptive_perspective(student, -student, labels, num_classes=2)[2].item() == pytest.approx(1)
    absent = adaptive_perspective(student, teacher, labels, num_classes=3)[1]
    assert absent.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-12)


@pytest.mark.parametrize("prototypes", ["batch", "image"])
def test_invariances(prototypes: Any) -> None:
    student, teacher = maps((2, 4, 3, 5), (2, 4, 3, 5), seed=2)
    labels = torch.randint(0, 3, (2, 6, 10), generator=torch.Generator().manual_seed(2))

    def losses(s: Tensor, t: Tensor) -> Tensor:
        return torch.stack(adaptive_perspective(s, t, labels, num_classes=3, prototypes=prototypes))

    values = losses(student, teacher)
    scale = 0.2 + maps((2, 1, 3, 5), seed=3)[0].abs()
    torch.testing.assert_close(losses(student * scale, teacher / scale), values)
    turned = losses(orthogonal(4)(teacher), teacher)
    assert turned[0].item() == pytest.approx(0, abs=1e-12) and turned[2] > 0.01
    assert values[0] > 0.01
    assert not torch.isclose(losses(student, teacher)[0], losses(teacher, student)[0], rtol=1e-3)


def test_prototypes_of_the_batch_are_not_those_of_images() -> None:
    case = ((2, 3, 4, 4), (8, 8), 3)
    student, teacher = maps(case[0], case[0], seed=4)
    labels = labels_of(case)
    batch, image = (
        adaptive_perspective(student, teacher, labels, num_classes=3, prototypes=kind)
        for kind in ("batch", "image")
    )
    assert all(not torch.isclose(a, b, rtol=1e-3) for a, b in zip(batch, image, strict=True))
    for i in (0, 2):
        assert_halves_average(
            lambda s, t, y, i=i: adaptive_perspective(s, t, y, num_classes=3, prototypes="image")[i],
            student,
            teacher,
            labels,
        )


@pytest.mark.parametrize("index", [0, 2])
def test_gradcheck(index: int) -> None:
    student, teacher = maps((2, 2, 2, 2), (2, 2, 2, 2), seed=5)
    labels = torch.tensor([[[0, 1], [255, 2]], [[0, 0], [1, 255]]])
    assert_gradcheck(lambda s, t: adaptive_perspective(s, t, labels, num_classes=4)[index], student, teacher)


def test_gradcheck_of_the_teachers_own_loss() -> None:
    student, teacher = maps((2, 2, 2, 2), (2, 2, 2, 2), seed=5)
    labels = torch.randint(0, 3, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0] = 255
    assert_gradcheck(lambda t, s: adaptive_perspective(s, t, labels, num_classes=4)[1], teacher, student)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("closeness", [0.0, 1e-4, 1e-2])
def test_near_the_teacher_float32_keeps_the_stated_rounding(closeness: float, temperature: float) -> None:
    teacher, noise = (x.float() for x in maps((2, 4, 4, 4), (2, 4, 4, 4), seed=8))
    student = 3 * teacher + closeness * noise
    labels = labels_of(((2, 4, 4, 4), (8, 8), 5))
    options: dict[str, Any] = {"temperature": temperature, "num_classes": 5}
    local, _, align = adaptive_perspective(student, teacher, labels, **options)
    expected = adaptive_perspective(student.double(), teacher.double(), labels, **options)
    assert local.item() == pytest.approx(expected[0].item(), rel=1e-5, abs=1e-7 / temperature)
    assert align.item() == pytest.approx(expected[2].item(), rel=1e-5, abs=1e-7)


def test_another_ignore_index_which_may_be_a_class() -> None:
    student, teacher = maps((2, 3, 4, 4), (2, 3, 4, 4), seed=9)
    labels = labels_of(((2, 3, 4, 4), (8, 8), 4))
    expected = adaptive_perspective(student, teacher, labels, num_classes=4)
    moved = labels.masked_fill(labels == 255, 1)
    found = adaptive_perspective(student, teacher, moved, num_classes=4, ignore_index=1)
    torch.testing.assert_close(found, expected)
    other = adaptive_perspective(student, teacher, moved, num_classes=4)
    assert not any(torch.isclose(a, b) for a, b in zip(other, expected, strict=True))


def test_maps_that_differ_are_refused_with_both_shapes() -> None:
    labels = torch.zeros(2, 3, 5, dtype=torch.int64)
    for shape in ((2, 2, 3, 4), (1, 2, 3, 5), (2, 3, 3, 5)):
        with pytest.raises(UserError, match=r"\(2, 2, 3, 5\), the teacher's \(") as error:
            adaptive_perspective(*maps((2, 2, 3, 5), shape), labels, num_classes=2)
        assert str(shape) in str(error.value)


def test_gradients_go_where_they_belong() -> None:
    student, teacher = (x.requires_grad_() for x in maps((1, 3, 4, 4), (1, 3, 4, 4), seed=6))
    labels = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    local, ce, align = adaptive_perspective(student, teacher, labels, num_classes=3)
    (local + align).backward(retain_graph=True)
    assert teacher.grad is None and student.grad is not None
    student.grad = None
    ce.backward()
    assert student.grad is None and teacher.grad is not None and teacher.grad.any()


def test_without_labels_all_are_zeros_with_a_graph() -> None:
    student, teacher = (x.requires_grad_() for x in maps((2, 3, 4, 4), (2, 3, 4, 4), seed=7))
    for prototypes in ("batch", "image"):
        values = adaptive_perspective(
            student, teacher, torch.full((2, 8, 8), 255), num_classes=3, prototypes=prototypes
        )
        sum(values).backward()  # type: ignore[union-attr]
        assert not any(value.item() for value in values)
    assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, "above 0"), ({"prototypes": "images"}, "did you mean 'image'")],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        adaptive_perspective(
            *maps((1, 2, 2, 2), (1, 2, 2, 2)), torch.zeros(1, 2, 2), num_classes=2, **options
        )
