"""Augmentation-free dense contrastive distillation (Fan et al., NeurIPS 2023, arXiv 2312.04168).

Defaults are those of the released code; where it and the paper differ, the release trained the published
checkpoints and is followed: negatives of the omni-contrast are of other channel groups only.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from afdcd.config import ContrastForm, Count, Positive, Share, Some
from afdcd.errors import UserError
from afdcd.losses.contrast.forms import contrast
from afdcd.losses.contrast.rows import Distance, Setting
from afdcd.losses.contrast.sample import drawn_patches, taken_patches
from afdcd.losses.generator import MaskedGenerator, random_keep_mask
from afdcd.losses.inputs import require_choice, require_equal_shapes
from afdcd.losses.method import Context, Method, Target
from afdcd.losses.squared_error import squared_error
from afdcd.models.output import SegOutput, Stop

Negatives = Literal["cross_group", "all"]
Reduction = Literal["sum", "mean"]


def omni_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    pool: int = 4,
    patch_size: int = 4,
    groups: int = 16,
    temperature: float = 0.07,
    distance: Distance = "l1",
    negatives: Negatives = "cross_group",
    form: ContrastForm = "auto",
) -> Tensor:
    """Contrast of channel groups and positions within patches (Af-DCD, omni-contrasting).

    Both maps are max-pooled (floor), cropped at the bottom and right to whole patches, and cut into patches
    of `patch_size`^2 cells times `groups` contiguous channel groups. Each such vector of the student is
    pulled to the teacher's at the same place and pushed from those of other groups in the same patch
    ("cross_group", as released) or from all others ("all", as the paper's figure shows). The sum over
    anchors is divided by the number of cells, B H' W', not by the number of groups. In float32 an anchor
    keeps about 1e-7 of 1 + distance / temperature, near a perfect student too.

    Args:
        student: (B, C, H, W), in the method the generator's guess.
        teacher: (B, C, H, W), detached here.
        pool: window and stride of the max pooling in cells; 1 pools nothing.
        patch_size: side of a patch, in pooled cells.
        groups: number of channel groups; divides C.
        temperature: > 0.
        distance: norm of the difference of two vectors, not squared.
        negatives: which teacher vectors of the patch repel.
        form: how it is computed; see `afdcd.losses.contrast.forms`.

    Raises:
        UserError: the shapes differ, the pooled map is smaller than a patch, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "omni contrast")
    require_choice("omni contrast", "negatives", negatives, get_args(Negatives))
    require_patch(student, pool=pool, patch_size=patch_size)
    _require_options(student, groups, temperature, distance)
    patch = (patch_size, patch_size)
    setting = Setting(patch, groups, temperature, distance, cross_group=negatives == "cross_group")
    student, teacher = (_pooled(x, pool) for x in (student, teacher.detach()))
    return contrast(student, teacher, setting, form) / _cells(student, setting)


def channel_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    groups: int = 16,
    temperature: float = 0.07,
    distance: Distance = "l1",
    form: ContrastForm = "auto",
) -> Tensor:
    """Contrast of the channel groups of each pixel (Af-DCD, channel contrasting).

    The omni-contrast with patches of one cell and no pooling, and its rounding; the sum is divided by B H W.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W), detached here.
        groups: number of contiguous channel groups; divides C.
        temperature: > 0.
        distance: norm of the difference of two vectors, not squared.
        form: how it is computed; see `afdcd.losses.contrast.forms`.

    Raises:
        UserError: the shapes differ, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "channel contrast")
    _require_options(student, groups, temperature, distance)
    setting = Setting((1, 1), groups, temperature, distance, cross_group=False)
    return contrast(student, teacher.detach(), setting, form) / _cells(student, setting)


def spatial_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    pool: int = 4,
    temperature: float = 0.07,
    distance: Distance = "l1",
    form: ContrastForm = "auto",
) -> Tensor:
    """Contrast of each pixel's whole vector with all pixels of its image (Af-DCD, spatial contrasting).

    The sum over anchors is divided by their number, B H' W' after pooling; rounding as in the omni-contrast.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W), detached here.
        pool: window and stride of the max pooling in cells; 1 pools nothing.
        temperature: > 0.
        distance: norm of the difference of two vectors, not squared.
        form: how it is computed; see `afdcd.losses.contrast.forms`.

    Raises:
        UserError: the shapes differ, nothing is left after pooling, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "spatial contrast")
    require_patch(student, pool=pool, patch_size=1)
    _require_options(student, 1, temperature, distance)
    student, teacher = (_pooled(x, pool) for x in (student, teacher.detach()))
    height, width = student.shape[-2:]
    setting = Setting((height, width), 1, temperature, distance, cross_group=False)
    return contrast(student, teacher, setting, form) / _cells(student, setting)


def masked_feature_loss(generated: Tensor, teacher: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    """Squared error of the generator's guess, over kept and dropped cells alike (MGD equation 3).

    Args:
        generated: (B, C, H, W).
        teacher: (B, C, H, W), unmasked, detached here.
        reduction: "sum" is the sum over C, H and W divided by B, "mean" the mean over all elements.

    Raises:
        UserError: the shapes differ, or the reduction is unknown.
    """
    require_equal_shapes(generated, teacher, "masked feature loss")
    require_choice("masked feature loss", "reduction", reduction, get_args(Reduction))
    return squared_error(generated, teacher) / (len(generated) if reduction == "sum" else generated.numel())


def require_patch(
    features: Tensor, *, pool: int, patch_size: int, crop: tuple[int, int] | None = None
) -> None:
    """Refuse a map that holds not one whole patch after pooling.

    Args:
        features: (B, C, H, W).
        pool: window and stride of the pooling.
        patch_size: side of a patch in pooled cells.
        crop: the training crop in pixels that gave the map; the message then says how large it must be.

    Raises:
        UserError: no patch fits, or `pool` or `patch_size` is below 1.
    """
    if pool < 1 or patch_size < 1:
        raise UserError(f"contrast: pool {pool} and patch_size {patch_size} must be at least 1 (no pooling)")
    size, need = features.shape[-2:], pool * patch_size
    if min(size) >= need:
        return
    given, least = "", f"a map of {need}x{need} or more"
    if crop is not None:
        stride = [-(-pixels // cells) for pixels, cells in zip(crop, size, strict=True)]
        given = f", from a crop of {crop[0]}x{crop[1]} pixels"
        least = f"a crop of at least {need * stride[0]}x{need * stride[1]} pixels"
    raise UserError(
        f"crop smaller than one contrast patch: the feature map is {size[0]}x{size[1]}{given}, and "
        f"pool {pool} with patch_size {patch_size} needs {least}; enlarge it or lower pool or patch_size"
    )


class AfDCD(Method):
    """Masked feature mimicking and omni-contrast on the backbone's last stage, from one generator."""

    terms: ClassVar[tuple[str, ...]] = ("masked_feature", "omni_contrast")
    student_stop: ClassVar[Stop] = "features"
    teacher_stop: ClassVar[Stop] = "features"

    def __init__(
        self,
        context: Context,
        *,
        mask_ratio: Share,
        bottleneck: Count | None,
        pool: Count,
        patch_size: Count,
        patch_fraction: Some,
        groups: Count,
        temperature: Positive,
        distance: Literal["l1", "l2"],
        negatives: Literal["cross_group", "all"],
        reduction: Literal["sum", "mean"],
    ) -> None:
        """Build the generator from the student's to the teacher's width.

        Args:
            context: the run's shapes, and how the contrast is computed.
            mask_ratio: expected share of dropped cells.
            bottleneck: width of the generator in channels; None, as in the release, is the teacher's.
            pool: see `omni_contrast`, as for all that is not named here.
            patch_size: side of a patch in pooled cells.
            patch_fraction: share of each image's patches that the contrast takes, drawn anew for each
                sample; below 1 its value is an estimate. 1 in the release.
            groups: number of channel groups.
            temperature: of the contrast.
            distance: of two vectors.
            negatives: which vectors of the patch repel.
            reduction: of the masked feature term.

        Raises:
            UserError: `groups` does not divide the teacher's channels.
        """
        super().__init__()
        channels = context.teacher.features[-1]
        _require_groups(channels, groups)
        self.mask_ratio, self.reduction = mask_ratio, reduction
        self.pool, self.patch_size, self.groups = pool, patch_size, groups
        self.patch_fraction = patch_fraction
        self.temperature, self.distance, self.negatives = temperature, distance, negatives
        self.form = context.contrast
        self.generator = MaskedGenerator(context.student.features[-1], channels, bottleneck)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "masked_feature" and "omni_contrast".

        Raises:
            UserError: the crop is smaller than one patch, or the feature maps differ in size.
        """
        features, wanted = student.features[-1], teacher.features[-1]
        guess = self.generator(features, random_keep_mask(target.keys, features, self.mask_ratio))
        values: dict[str, Tensor] = {}
        if "masked_feature" in self.active:
            values["masked_feature"] = masked_feature_loss(guess, wanted, reduction=self.reduction)
        if "omni_contrast" in self.active:
            crop = (target.labels.shape[-2], target.labels.shape[-1])
            require_patch(guess, pool=self.pool, patch_size=self.patch_size, crop=crop)
            require_equal_shapes(guess, wanted, "omni contrast")
            if self.patch_fraction < 1:
                side = self.pool * self.patch_size
                drawn = drawn_patches(target.keys, guess, side, self.patch_fraction)
                guess, wanted = (taken_patches(x, drawn, side) for x in (guess, wanted))
            values["omni_contrast"] = omni_contrast(
                guess,
                wanted,
                pool=self.pool,
                patch_size=self.patch_size,
                groups=self.groups,
                temperature=self.temperature,
                distance=self.distance,
                negatives=self.negatives,
                form=self.form,
            )
        return values


def _pooled(features: Tensor, pool: int) -> Tensor:
    """Max-pooled in the map's own precision: rounding is monotonous, and the small map is cheap to widen."""
    return features if pool == 1 else F.max_pool2d(features, pool)


def _cells(features: Tensor, setting: Setting) -> int:
    """The cells (B, H', W') that the patches hold."""
    down, across = setting.grid(features)
    return len(features) * down * across * setting.patch[0] * setting.patch[1]


def _require_groups(channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        raise UserError(f"contrast: {groups} groups do not divide the {channels} channels; change groups")


def _require_options(features: Tensor, groups: int, temperature: float, distance: str) -> None:
    _require_groups(features.shape[1], groups)
    require_choice("contrast", "distance", distance, get_args(Distance))
    if not temperature > 0:
        raise UserError(f"contrast: temperature must be above 0, got {temperature}")
