from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import maps
from contracts.method import BATCH, CLASSES, STUDENT, TEACHER, MethodContract, output, target

from afdcd.errors import UserError
from afdcd.losses.afdcd import (
    AfDCD,
    channel_contrast,
    masked_feature_loss,
    omni_contrast,
    spatial_contrast,
)
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec


def test_half_precision_maps_are_compared_wide() -> None:
    student, teacher = (x.bfloat16() for x in maps((1, 32, 16, 16), (1, 32, 16, 16), seed=10))
    expected = omni_contrast(student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        for value in (
            omni_contrast(student, teacher),
            channel_contrast(student, teacher),
            spatial_contrast(student, teacher),
            masked_feature_loss(student, teacher),
        ):
            assert value.dtype == torch.float32 and value.isfinite()
        assert omni_contrast(student, teacher).equal(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "pool 0 .* at least 1"),
        ({"patch_size": 0}, "patch_size 0 .* at least 1"),
        ({"pool": 5}, "feature map is 16x16, and pool 5 with patch_size 4 needs a map of 20x20"),
        ({"groups": 5}, "5 groups do not divide the 16 channels"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"distance": "L1"}, "unknown distance 'L1'; valid: l1, l2"),
        ({"negatives": "cross_groups"}, "did you mean 'cross_group'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    maps = torch.zeros(1, 16, 16, 16)
    with pytest.raises(UserError, match=message):
        omni_contrast(maps, maps, **options)


def test_other_refusals() -> None:
    maps = torch.zeros(1, 16, 16, 16)
    with pytest.raises(UserError, match="pool 0"):
        spatial_contrast(maps, maps, pool=0)
    with pytest.raises(UserError, match="unknown reduction 'avg'"):
        masked_feature_loss(maps, maps, reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"16, 16, 16\), the teacher's \(1, 16, 16, 15"):
        masked_feature_loss(maps, maps[..., :15])


class TestContract(MethodContract):
    name: ClassVar[str] = "afdcd"
    options: ClassVar[dict[str, Any]] = {
        "mask_ratio": 0.5,
        "pool": 1,
        "patch_size": 2,
        "groups": 4,
        "temperature": 1.0,
        "distance": "l1",
        "negatives": "cross_group",
        "reduction": "sum",
    }
    falling: ClassVar[tuple[str, ...]] = ("masked_feature", "omni_contrast")

    def test_masks_follow_the_keys(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        first = objective(student, teacher, target())
        other = objective(student, teacher, target()._replace(keys=torch.arange(50, 50 + BATCH)))
        assert all(not first[name].equal(other[name]) for name in first)

    def test_crop_smaller_than_a_patch_says_how_large_it_must_be(self) -> None:
        self.options = {**type(self).options, "pool": 3, "patch_size": 3}
        with pytest.raises(UserError, match=r"6x8, from a crop of 48x64 .* at least 72x72 pixels"):
            self.build()(output(STUDENT, 1), output(TEACHER, 2), target())

    def test_groups_must_divide_the_teachers_channels(self) -> None:
        spec = ChannelSpec((4, 6), 4, CLASSES)
        options = {**self.options, "groups": 4}
        with pytest.raises(UserError, match="4 groups do not divide the 6 channels"):
            AfDCD(Context(spec, spec, 255, None), **options)


class TestMeanL2Contract(TestContract):
    options: ClassVar[dict[str, Any]] = {
        **TestContract.options,
        "distance": "l2",
        "negatives": "all",
        "reduction": "mean",
    }
