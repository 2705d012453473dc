from __future__ import annotations

import pytest
import torch
from contracts.method import STUDENT, TEACHER, output
from torch import Tensor, nn

from afdcd.losses.resize import AtStride, resized, teacher_to_student
from afdcd.models.output import SegOutput


def test_halving_averages_and_growing_keeps_the_mean() -> None:
    values = torch.arange(16.0).view(1, 1, 4, 4)
    assert resized(values, (2, 2)).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert resized(values, (8, 8)).mean().item() == pytest.approx(7.5)
    assert resized(values, (4, 4)) is values


def test_half_precision_is_widened_first() -> None:
    values = torch.rand(1, 2, 4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = resized(values, (2, 3))
    assert found.dtype == torch.float32 and found.equal(resized(values.float(), (2, 3)))
    assert resized(values.double(), (2, 3)).dtype == torch.float64


def test_stages_are_paired_from_the_last_and_missing_fields_stay_missing() -> None:
    student, teacher = output(STUDENT, 1, (3, 4)), output(TEACHER, 2, (6, 8))
    more = teacher._replace(features=(torch.zeros(2, 3, 50, 50), *teacher.features), logits=None)
    found = teacher_to_student(student, more)
    assert [tuple(x.shape[-2:]) for x in found.features] == [(50, 50), (6, 8), (3, 4)]
    assert found.logits is None and found.head_features is not None
    assert found.head_features.shape == (2, TEACHER.head_features, 3, 4)
    fewer = teacher_to_student(student, teacher._replace(features=teacher.features[1:]))
    assert [tuple(x.shape[-2:]) for x in fewer.features] == [(3, 4)]
    shallow = teacher_to_student(student._replace(head_features=None), teacher)
    assert shallow.head_features is teacher.head_features


class Teacher(nn.Module):
    def forward(self, images: Tensor, *, stop: str = "logits") -> SegOutput:
        small = images[..., ::8, ::8]
        return SegOutput(None, (images[..., ::4, ::4], small), small, None)


def test_a_first_phase_sees_the_teacher_at_the_students_stride() -> None:
    images = torch.rand(2, 3, 37, 64)
    found = AtStride(Teacher(), 16)(images, stop="head_features")
    assert [tuple(x.shape[-2:]) for x in found.features] == [(10, 16), (3, 4)]
    assert found.head_features is not None and found.head_features.shape[-2:] == (3, 4)
    assert found.logits is None
