"""What each distillation method adds to a training step: parameters and multiply-accumulates of one image.

python benchmarks/method_cost.py            # all methods; about a minute, nothing is timed
python benchmarks/method_cost.py kd afdcd   # some of them

DeepLabV3-ResNet-101 teaches DeepLabV3-ResNet-18, 19 classes, crops of 512x1024, two images on a process (for
what compares images with each other). Counted on shapes alone, by torch's FlopCounterMode, halved:
convolutions and matrix products of the adapters and of the losses. It does not see sums, softmaxes, poolings
and the L1 distances of the contrasts. Nothing here reaches an exported network.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import register_flop_formula
from work import counting

from afdcd.config import IGNORE_INDEX, ModelConfig
from afdcd.losses import METHODS
from afdcd.losses.method import Context, Method, Target
from afdcd.losses.recipe import check_recipe
from afdcd.models.output import SegOutput
from afdcd.models.segmenter import Segmenter
from afdcd.plugins import resolve
from pipeline.configure import compose

CLASSES, BATCH, CROP, STRIDE = 19, 2, (512, 1024), 8
PRESETS = ["dataset=camvid", "pair=r101_r18", "schedule=paper"]
RELEASED = ["preset.pool=4", "preset.relation_pool=1"]
"""Of the recipes for crops of 512x1024, where the CamVid preset has others."""
READS_VALUES = frozenset({"idd", "afdcd", "mgd"})
"""Work depends on the labels or on the mask, so they run on real zeros instead of bare shapes."""


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def product_flops(left: torch.Size, right: torch.Size, *_: object, **__: object) -> int:
    """Twice the multiply-accumulates of `afdcd.losses.product.product`."""
    return 2 * left[0] * left[1] * right[0]


def shapes_only() -> AbstractContextManager[Any]:
    """Tensors made inside hold no numbers and say that they are on the CPU; autocast refuses "meta"."""
    return FakeTensorMode()


def output(network: Segmenter, *, student: bool) -> SegOutput:
    """Maps as the network gives them, zeros or shapes; a student's ask for gradients."""
    size = (CROP[0] // STRIDE, CROP[1] // STRIDE)

    def tensor(channels: int) -> Tensor:
        return torch.zeros(BATCH, channels, *size, requires_grad=student)

    spec = network.channels
    return SegOutput(tensor(CLASSES), (tensor(spec.features[-1]),), tensor(spec.head_features), None)


def gmacs(method: Method, student: SegOutput, teacher: SegOutput, target: Target) -> tuple[float, float]:
    """1e9 multiply-accumulates of one image: forward alone, and forward with backward."""
    with counting() as counter:
        terms = [*method(student, teacher, target).values()]
        terms += method.side_losses(student, teacher, target).values()
        forward = counter.get_total_flops()
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        both = counter.get_total_flops()
    return forward / 2e9 / BATCH, both / 2e9 / BATCH


def network_gmacs(network: Segmenter, *, trained: bool) -> float:
    """1e9 multiply-accumulates of one image through a network; trained: auxiliary head and backward too."""
    images = torch.zeros(BATCH, 3, *CROP)
    with counting() as counter, torch.set_grad_enabled(trained):
        found = network.train(trained)(images)
        if trained:
            (found.logits.sum() + found.aux.sum()).backward()
    return float(counter.get_total_flops()) / 2e9 / BATCH


def millions(module: nn.Module, *, trained: bool = True) -> float:
    """1e6 parameters that are trained, or those that are not."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained) / 1e6


def row(name: str, trained: float, frozen: float, forward: float, both: float | None = None) -> str:
    """A line of the table."""
    end = f"{'-':>12}" if both is None else f"{both:>12.2f}"
    return f"{name:<10}{trained:>11.3f}{frozen:>11.3f}{forward:>11.2f}{end}"


def main(names: list[str]) -> None:
    recipes = f"recipe=[{','.join(METHODS)}]"
    settings: dict[str, Any] = yaml.safe_load(compose([*PRESETS, *RELEASED, recipes]).body)
    with shapes_only():
        teacher = Segmenter(ModelConfig(**settings["teacher"]["model"]), CLASSES)
        student = Segmenter(ModelConfig(**settings["students"]["dlv3_r18"]), CLASSES)
        print(f"{'':<10}{'M trained':>11}{'M frozen':>11}{'GMACs':>11}{'+ backward':>12}")
        print(row("teacher", 0, millions(teacher), network_gmacs(teacher, trained=False)))
        sizes = millions(student), 0.0
        print(row("student", *sizes, *(network_gmacs(student, trained=on) for on in (False, True))))
    context = Context(student.channels, teacher.channels, IGNORE_INDEX, None, contrast="chunked")
    for name in names:
        options = check_recipe(settings["distill"]["recipes"][name], name)[name].options
        with nullcontext() if name in READS_VALUES else shapes_only():
            method = resolve(METHODS, name, "distillation method")(context, **options)
            outputs = output(student, student=True), output(teacher, student=False)
            labels = torch.arange(CROP[0] * CROP[1]).view(1, *CROP).repeat(BATCH, 1, 1) % CLASSES
            forward, both = gmacs(method, *outputs, Target(labels, torch.arange(BATCH)))
        sizes = millions(method, trained=True), millions(method, trained=False)
        print(row(name, *sizes, forward, both))


if __name__ == "__main__":
    main(sys.argv[1:] or list(METHODS))
