"""Augmentation-free dense contrastive distillation (Fan et al., NeurIPS 2023, arXiv 2312.04168).

Defaults are those of the released code; where it and the paper differ, the release trained the published
checkpoints and is followed: negatives of the omni-contrast are of other channel groups only.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from afdcd.config import Count, Positive, Share
from afdcd.errors import UserError
from afdcd.losses.contrast import Distance, Negatives, chunked
from afdcd.losses.generator import MaskedGenerator, random_keep_mask
from afdcd.losses.inputs import full_precision, require_choice, require_equal_shapes, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop

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

    Raises:
        UserError: the shapes differ, the pooled map is smaller than a patch, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "omni contrast")
    require_choice("omni contrast", "negatives", negatives, get_args(Negatives))
    require_patch(student, pool=pool, patch_size=patch_size)
    excluded = groups if negatives == "cross_group" else None
    pooled = (_pooled(student, pool), _pooled(teacher.detach(), pool))
    return _contrast(*pooled, patch_size, groups, temperature, distance, excluded)


def channel_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    groups: int = 16,
    temperature: float = 0.07,
    distance: Distance = "l1",
) -> Tensor:
    """Contrast of the channel groups of each pixel (Af-DCD, channel contrasting).

    The omni-contrast with patches of one cell and no pooling, and its rounding; the sum is divided by B H W.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W), detached here.
        groups: number of contiguous channel groups; divides C.
        temperature: > 0.
        distance: norm of the difference of two vectors, not squared.

    Raises:
        UserError: the shapes differ, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "channel contrast")
    return _contrast(student, teacher.detach(), 1, groups, temperature, distance, None)


def spatial_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    pool: int = 4,
    temperature: float = 0.07,
    distance: Distance = "l1",
) -> Tensor:
    """Contrast of each pixel's whole vector with all pixels of its image (Af-DCD, spatial contrasting).

    The sum over anchors is divided by their number, B H' W' after pooling; rounding as in the omni-contrast.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W), detached here.
        pool: window and stride of the max pooling in cells; 1 pools nothing.
        temperature: > 0.
        distance: norm of the difference of two vectors, not squared.

    Raises:
        UserError: the shapes differ, nothing is left after pooling, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "spatial contrast")
    require_patch(student, pool=pool, patch_size=1)
    pooled = (_pooled(student, pool), _pooled(teacher.detach(), pool))
    rows = [wide(x).flatten(2).transpose(1, 2).contiguous() for x in pooled]
    _require_options(temperature, distance)
    with full_precision(student):
        total = chunked(*rows, temperature=temperature, distance=distance, groups=None)
    return total / (rows[0].shape[0] * rows[0].shape[1])


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
    with full_precision(generated):
        loss = F.mse_loss(wide(generated), wide(teacher.detach()), reduction=reduction)
    return loss / generated.shape[0] if reduction == "sum" else loss


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
        pool: Count,
        patch_size: Count,
        groups: Count,
        temperature: Positive,
        distance: Literal["l1", "l2"],
        negatives: Literal["cross_group", "all"],
        reduction: Literal["sum", "mean"],
    ) -> None:
        """Build the generator from the student's to the teacher's width.

        Raises:
            UserError: `groups` does not divide the teacher's channels.
        """
        super().__init__()
        channels = context.teacher.features[-1]
        _require_groups(channels, groups)
        self.mask_ratio, self.reduction = mask_ratio, reduction
        self.pool, self.patch_size, self.groups = pool, patch_size, groups
        self.temperature, self.distance, self.negatives = temperature, distance, negatives
        self.generator = MaskedGenerator(context.student.features[-1], channels)

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
            values["omni_contrast"] = omni_contrast(
                guess,
                wanted,
                pool=self.pool,
                patch_size=self.patch_size,
                groups=self.groups,
                temperature=self.temperature,
                distance=self.distance,
                negatives=self.negatives,
            )
        return values


def _pooled(features: Tensor, pool: int) -> Tensor:
    """Max-pooled in the map's own precision: rounding is monotonous, and the small map is cheap to widen."""
    return features if pool == 1 else F.max_pool2d(features, pool)


def _contrast(
    student: Tensor,
    teacher: Tensor,
    patch: int,
    groups: int,
    temperature: float,
    distance: Distance,
    excluded: int | None,
) -> Tensor:
    """The contrast within patches, divided by the number of cells (B, H', W') that the patches hold."""
    _require_groups(student.shape[1], groups)
    _require_options(temperature, distance)
    rows = [_patch_rows(wide(x), patch, groups) for x in (student, teacher)]
    with full_precision(student):
        total = chunked(*rows, temperature=temperature, distance=distance, groups=excluded)
    return total / (rows[0].shape[0] * patch**2)


def _patch_rows(features: Tensor, patch: int, groups: int) -> Tensor:
    """(B, C, H, W) -> (patches of all images, patch^2 * groups, C / groups); row = cell * groups + group."""
    batch, channels, height, width = features.shape
    down, across = height // patch, width // patch
    whole = features[..., : down * patch, : across * patch]
    parts = whole.reshape(batch, groups, channels // groups, down, patch, across, patch)
    return parts.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, patch**2 * groups, channels // groups)


def _require_groups(channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        raise UserError(f"contrast: {groups} groups do not divide the {channels} channels; change groups")


def _require_options(temperature: float, distance: str) -> None:
    require_choice("contrast", "distance", distance, get_args(Distance))
    if not temperature > 0:
        raise UserError(f"contrast: temperature must be above 0, got {temperature}")
