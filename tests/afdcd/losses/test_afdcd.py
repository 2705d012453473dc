from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import D, maps
from contracts.guess import naive_guess
from contracts.method import BATCH, CLASSES, STUDENT, TEACHER, MethodContract, output, target

from afdcd.errors import UserError
from afdcd.losses.afdcd import (
    AfDCD,
    channel_contrast,
    masked_feature_loss,
    omni_contrast,
    spatial_contrast,
)
from afdcd.losses.method import Context, Target
from afdcd.losses.randomness import uniform
from afdcd.models.output import ChannelSpec, SegOutput


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
    with pytest.raises(UserError, match="feature map is 16x8, and pool 3"):
        omni_contrast(maps[..., :8], maps[..., :8], pool=3)
    with pytest.raises(UserError, match="feature map is 16x16, and pool 17"):
        spatial_contrast(maps, maps, pool=17)
    with pytest.raises(UserError, match="3 groups do not divide the 16 channels"):
        channel_contrast(maps, maps, groups=3)
    contrasts: list[Any] = [channel_contrast, spatial_contrast]
    for loss in contrasts:
        with pytest.raises(UserError, match="temperature must be above 0, got nan"):
            loss(maps, maps, temperature=float("nan"))
        with pytest.raises(UserError, match="unknown distance 'l3'"):
            loss(maps, maps, distance="l3")
    with pytest.raises(UserError, match="unknown reduction 'avg'"):
        masked_feature_loss(maps, maps, reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"16, 16, 16\), the teacher's \(1, 16, 16, 15"):
        masked_feature_loss(maps, maps[..., :15])


@pytest.mark.parametrize("loss", [omni_contrast, channel_contrast, spatial_contrast, masked_feature_loss])
def test_maps_that_differ_are_refused_with_both_shapes(loss: Any) -> None:
    student = torch.zeros(2, 16, 16, 16)
    for other in ((2, 16, 16, 15), (2, 15, 16, 16), (1, 16, 16, 16)):
        with pytest.raises(UserError, match=r"student's map is \(2, 16, 16, 16\), the teacher's \(") as error:
            loss(student, torch.zeros(other))
        assert str(other) in str(error.value)


OPTIONS: dict[str, Any] = {
    "mask_ratio": 0.5,
    "bottleneck": None,
    "pool": 1,
    "patch_size": 2,
    "patch_fraction": 1.0,
    "groups": 4,
    "temperature": 1.0,
    "distance": "l1",
    "negatives": "cross_group",
    "reduction": "sum",
}
OTHERS: dict[str, Any] = {
    "mask_ratio": 0.75,
    "bottleneck": 3,
    "pool": 2,
    "patch_size": 3,
    "patch_fraction": 0.67,
    "groups": 2,
    "temperature": 0.3,
    "distance": "l2",
    "negatives": "all",
    "reduction": "mean",
}


def build(student: int, options: dict[str, Any]) -> AfDCD:
    torch.manual_seed(student)
    specs = [ChannelSpec((2, width), 1, 3) for width in (student, 4)]
    return AfDCD(Context(*specs, 255, None), **options).to(D)


def run(method: AfDCD, student: Any, teacher: Any, keys: Any) -> dict[str, Any]:
    outputs = [SegOutput(None, (x[:, :1], x), None, None) for x in (student, teacher)]
    return method(*outputs, Target(torch.zeros(len(student), 64, 64), keys))


def some(guess: Any, teacher: Any, keys: Any, options: dict[str, Any]) -> list[Any]:
    """Both maps, or of each image its three patches but for the one with the largest number."""
    if options["patch_fraction"] == 1:
        return [guess, teacher]
    left_out = [numbers.index(max(numbers)) for numbers in uniform(-1 - keys, 3).tolist()]
    kept = [[at for at in (0, 6, 12) if at != 6 * out] for out in left_out]
    return [
        torch.stack([torch.cat([x[i, :, :6, at : at + 6] for at in own], 2) for i, own in enumerate(kept)])
        for x in (guess, teacher)
    ]


@pytest.mark.parametrize("options", [OPTIONS, OTHERS])
@pytest.mark.parametrize("width", [3, 4, 5])
def test_the_terms_are_the_functions_of_one_guess_with_every_option(
    width: int, options: dict[str, Any]
) -> None:
    method, keys = build(width, options), torch.tensor([7, 9])
    assert method.generator.second.in_channels == (options["bottleneck"] or 4)
    size = (5, 4) if options is OPTIONS else (7, 19)
    student, teacher = maps((2, width, *size), (2, 4, *size), seed=1)
    student.requires_grad_()
    guess = naive_guess(dict(method.generator.named_parameters()), student, keys, options["mask_ratio"])
    others = ("mask_ratio", "bottleneck", "patch_fraction", "reduction")
    contrast = {k: v for k, v in options.items() if k not in others}
    expected = {
        "masked_feature": masked_feature_loss(guess, teacher, reduction=options["reduction"]),
        "omni_contrast": omni_contrast(*some(guess, teacher, keys, options), **contrast),
    }
    terms = run(method, student, teacher, keys)
    assert list(terms) == list(expected)
    leaves = [student, *method.parameters()]
    for name in expected:
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(x[name], leaves, retain_graph=True) for x in (terms, expected)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * other.abs().max().item() + 1e-14)
    with torch.no_grad():
        narrow = run(method.float(), student.float(), teacher.float(), keys)
    assert [x.item() for x in narrow.values()] == pytest.approx([x.item() for x in terms.values()], rel=1e-5)


def test_the_runs_form_of_the_contrast_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, asked = ChannelSpec((2, 4), 1, 3), []

    def contrast(student: torch.Tensor, *given: Any) -> torch.Tensor:
        asked.append(given[-1])
        return student.sum()

    monkeypatch.setattr("afdcd.losses.afdcd.contrast", contrast)
    features = maps((2, 4, 5, 4), (2, 4, 5, 4), seed=1)
    for form in ("auto", "dense"):
        method = AfDCD(Context(spec, spec, 255, None, contrast=form), **OPTIONS).to(D)  # type: ignore[arg-type]
        run(method, *features, torch.tensor([7, 9]))
    assert asked == ["auto", "dense"]
    for loss in (channel_contrast, spatial_contrast):
        loss(*features, **({"groups": 4} if loss is channel_contrast else {"pool": 1}), form="chunked")
    assert asked[2:] == ["chunked", "chunked"]


@pytest.mark.parametrize("options", [OPTIONS, OTHERS])
def test_gradcheck_through_the_module(options: dict[str, Any]) -> None:
    method, keys = build(3, options), torch.tensor([3])
    size = (2, 3) if options is OPTIONS else (6, 6)
    student, teacher = maps((1, 3, *size), (1, 4, *size), seed=2)
    weights = method.generator.second.bias

    def terms(x: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(run(method, x, teacher, keys).values())

    assert torch.autograd.gradcheck(terms, (student.requires_grad_(), weights))


class TestContract(MethodContract):
    name: ClassVar[str] = "afdcd"
    options: ClassVar[dict[str, Any]] = OPTIONS
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
        "bottleneck": 4,
        "patch_fraction": 0.3,
        "distance": "l2",
        "negatives": "all",
        "reduction": "mean",
    }
