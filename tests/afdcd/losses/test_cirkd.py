from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.method import BATCH, STUDENT, TEACHER, MethodContract, mapped, output, target

from afdcd.errors import UserError
from afdcd.losses.cirkd import CIRKD, mini_batch_pixel
from afdcd.losses.method import Context

OPTIONS: dict[str, Any] = {
    "temperature": 0.1,
    "pool": 1,
    "pixel_memory": 20,
    "region_memory": 5,
    "pixels_per_class": 3,
    "pixel_contrast": 12,
    "region_contrast": 6,
}


def build(**changes: Any) -> CIRKD:
    torch.manual_seed(0)
    return CIRKD(Context(STUDENT, TEACHER, 255, None), **{**OPTIONS, **changes}).eval()


def test_the_temperature_reaches_the_mini_batch_term() -> None:
    student, teacher = output(STUDENT, 1), output(TEACHER, 2)
    assert student.head_features is not None and teacher.head_features is not None
    expected = mini_batch_pixel(student.head_features, teacher.head_features, temperature=0.3)
    assert build(temperature=0.3)(student, teacher, target())["mini_batch_pixel"].equal(expected)


def test_the_projector_has_the_released_layers() -> None:
    first, *others = build().projector
    assert first.weight.shape == (TEACHER.head_features, STUDENT.head_features, 1, 1) and first.bias is None
    assert [type(layer).__name__ for layer in others] == ["BatchNorm2d", "ReLU", "Conv2d"]


def test_pooling_is_the_average_before_the_mini_batch_term_alone() -> None:
    student, teacher, here = output(STUDENT, 1), output(TEACHER, 2), target()
    pooled, plain = build(pool=2)(student, teacher, here), build()(student, teacher, here)
    small = [torch.nn.functional.avg_pool2d(x.head_features, 2) for x in (student, teacher)]
    torch.testing.assert_close(pooled["mini_batch_pixel"], mini_batch_pixel(*small))
    assert pooled["memory_pixel"].equal(plain["memory_pixel"])
    with pytest.raises(UserError, match="pool 8 leaves one cell of a map of 6x8"):
        build(pool=8)(student, teacher, here)


def test_every_cell_takes_part_in_a_pooling_that_does_not_fit() -> None:
    """Windows at the bottom and right average the cells that are there."""
    student, teacher = output(STUDENT, 1, (5, 7)), output(TEACHER, 2, (5, 7))
    small = [
        torch.stack(
            [
                torch.stack([x[..., i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, 7, 2)], -1)
                for i in (0, 2, 4)
            ],
            2,
        )
        for x in (student.head_features, teacher.head_features)
        if x is not None
    ]
    assert small[0].shape[2:] == (3, 4)
    found = build(pool=2)(student, teacher, target())["mini_batch_pixel"]
    torch.testing.assert_close(found, mini_batch_pixel(*small))


class TestContract(MethodContract):
    name: ClassVar[str] = "cirkd"
    options: ClassVar[dict[str, Any]] = OPTIONS
    falling: ClassVar[tuple[str, ...]] = ("mini_batch_pixel",)
    moving: ClassVar[tuple[str, ...]] = ("memory_pixel", "memory_region")
    additive: ClassVar[bool] = False
    label_free: ClassVar[bool] = False
    of_labels: ClassVar[tuple[str, ...]] = ("memory_pixel", "memory_region")

    def test_same_keys_same_values(self) -> None:
        # The memory goes on with every batch: the same values need the same past.
        pasts = []
        for _ in range(2):
            objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
            torch.manual_seed(len(pasts))
            first = objective(student, teacher, target())
            pasts.append([*first.values(), *objective(student, teacher, target()).values()])
        assert all(a.equal(b) for a, b in zip(*pasts, strict=True))

    def test_keys_choose_what_is_remembered(self) -> None:
        banks = []
        for shift in (0, 50):
            objective = self.build()
            objective(
                output(STUDENT, 1),
                output(TEACHER, 2),
                target()._replace(keys=torch.arange(shift, shift + BATCH)),
            )
            banks.append(objective.methods["cirkd"].queues["memory_pixel"].vectors.clone())
        assert not banks[0].equal(banks[1])

    def test_dead_student_cells_have_small_gradients(self) -> None:
        objective = self.build(weights={"mini_batch_pixel": 1.0})
        student = mapped(output(STUDENT, 1), lambda x: (x * (x > 1)).detach().requires_grad_())
        assert student.head_features is not None
        assert (student.head_features == 0).all(1).any()
        objective(student, output(TEACHER, 2), target())["mini_batch_pixel"].backward()
        assert student.head_features.grad is not None and student.head_features.grad.abs().max() < 100
