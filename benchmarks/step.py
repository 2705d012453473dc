"""One distillation step, R101 -> R18 by Af-DCD, against a plain re-implementation of the released one.

python benchmarks/step.py            # both pairs; ten minutes on one free core, most of it the baseline's
python benchmarks/step.py demo       # one pair

The baseline is float32 NCHW, the generator unfolded, the contrast by boolean selection over cdist, bilinear
upsampling by the operator, an optimiser parameter by parameter, the teacher to its logits, and every term
read at every step. Ours is the training loop's step. Same networks, weights and batch; forms take turns in
one process, so their ratios hold on a busy machine; a second process a form gives the peak of memory.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from contrast import selection
from method_time import PAIRS, Pair, images, machine
from torch import Tensor, nn

from afdcd.config import IGNORE_INDEX, ModelConfig, OptimiserConfig
from afdcd.losses.afdcd import AfDCD
from afdcd.losses.generator import random_keep_mask
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter
from afdcd.training.distillation import DistillationTask
from afdcd.training.distributed import World
from afdcd.training.optimisation import build_optimiser, clip_adapters
from afdcd.training.task import Precision, Share, Supervision
from afdcd.training.watch import TermWatch
from pipeline.configure import compose

RECIPE = "afdcd"
READ_EVERY = 8
Step = Callable[[], None]


class Form(NamedTuple):
    """How a step is taken: `channels_last` and the two precisions of ours; the baseline has none of them."""

    bf16: bool = False
    teacher_bf16: bool = False
    plain: bool = False


FORMS = {
    "baseline": Form(plain=True),
    "ours, fp32": Form(),
    "ours, teacher in bf16": Form(teacher_bf16=True),
    "ours, bf16": Form(bf16=True, teacher_bf16=True),
}


class Parts(NamedTuple):
    """Everything that both forms are made of; each process and form has its own."""

    student: Segmenter
    teacher: Segmenter
    recipe: dict[str, Any]
    context: Context
    supervision: Supervision
    optimiser: OptimiserConfig


def parts_of(pair: Pair) -> Parts:
    settings = yaml.safe_load(compose([*pair.presets, f"recipe=[{RECIPE}]"]).body)
    torch.manual_seed(0)
    (config,) = settings["students"].values()
    student = Segmenter(ModelConfig(**config), pair.classes)
    teacher = Segmenter(ModelConfig(**settings["teacher"]["model"]), pair.classes)
    practice = settings["train"]["practice"]
    weights = None if practice["class_weights"] == "none" else torch.ones(pair.classes)
    context = Context(student.channels, teacher.channels, IGNORE_INDEX, weights)
    supervision = Supervision(weights, practice["auxiliary_weight"])
    optimiser = OptimiserConfig(**settings["train"]["schedule"]["optimiser"])
    return Parts(student, teacher, settings["distill"]["recipes"][RECIPE], context, supervision, optimiser)


def ours(pair: Pair, form: Form) -> Step:
    """The training loop's step; terms are read every `READ_EVERY` steps."""
    parts, batch = parts_of(pair), images(pair)
    objective = build_objective(parts.recipe, parts.context)
    parts.teacher.to(memory_format=torch.channels_last)
    precisions = Precision("cpu", form.bf16), Precision("cpu", form.teacher_bf16)
    task = DistillationTask(parts.student, parts.teacher, objective, parts.supervision, *precisions)
    task.learner.to(memory_format=torch.channels_last).train()
    groups = task.groups()
    adapters = [p for group in groups if group.clip for p in group.parameters if p.requires_grad]
    optimiser, share = build_optimiser(parts.optimiser, groups), Share(1.0, torch.ones(()))
    watch, count = TermWatch(World(0, 1, torch.device("cpu"))), iter(range(10**6))

    def step() -> None:
        optimiser.zero_grad()
        terms = task.losses(task.learner, batch, share)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        clip_adapters(adapters, parts.optimiser.clip_adapters)
        optimiser.step()
        watch.add(number := next(count), terms)
        if number % READ_EVERY == READ_EVERY - 1:
            watch.read()

    return step


class Plain(nn.Module):
    """Student and Af-DCD's module in the released form."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.student, self.parts = parts.student, parts
        objective = build_objective(parts.recipe, parts.context)
        self.kd, self.weights = objective.methods["kd"], objective.weights
        method = objective.methods["afdcd"]
        assert isinstance(method, AfDCD)
        self.method = method

    def forward(self, pixels: Tensor, labels: Tensor, keys: Tensor, teacher: Any) -> dict[str, Tensor]:
        output, generator = self.student(pixels), self.method.generator
        features, wanted = output.features[-1], teacher.features[-1]
        keep = random_keep_mask(keys, features, self.method.mask_ratio)
        hidden = features if generator.align is None else generator.align(features)
        guess = generator.second(F.relu(generator.first(hidden * keep)))
        pooled = [F.max_pool2d(each, self.method.pool) for each in (guess, wanted)]
        terms = self.kd(output, teacher, None)
        terms["masked_feature"] = F.mse_loss(guess, wanted, reduction="sum") / len(pixels)
        terms["omni_contrast"] = selection(*pooled, self.method.patch_size)
        total = sum(self.weights[name] * value for name, value in terms.items())
        for logits, weight in ((output.logits, 1.0), (output.aux, self.parts.supervision.auxiliary_weight)):
            large = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
            classes = self.parts.supervision.class_weights
            total = total + weight * F.cross_entropy(large, labels, classes, ignore_index=IGNORE_INDEX)
        return {"loss": total, **terms}


def baseline(pair: Pair, form: Form) -> Step:
    """The released way of a step."""
    parts, batch = parts_of(pair), images(pair)
    learner, teacher = Plain(parts).train(), parts.teacher.eval().requires_grad_(False)
    pixels, labels = batch.images.contiguous(), batch.labels.long()
    adapters, rate = list(learner.method.parameters()), parts.optimiser
    common = {"lr": rate.lr, "weight_decay": rate.weight_decay, "foreach": False, "fused": False}
    optimiser: torch.optim.Optimizer
    if rate.name == "sgd":
        optimiser = torch.optim.SGD(learner.parameters(), momentum=rate.momentum, **common)
    else:
        optimiser = torch.optim.AdamW(learner.parameters(), betas=(rate.momentum, 0.999), **common)

    def step() -> None:
        with torch.no_grad():
            known = teacher(pixels)
        terms = learner(pixels, labels, batch.keys, known)
        optimiser.zero_grad()
        terms["loss"].backward()
        if rate.clip_adapters is not None:
            nn.utils.clip_grad_norm_(adapters, rate.clip_adapters, foreach=False)
        optimiser.step()
        for value in terms.values():
            value.item()

    return step


def built(pair: Pair, form: Form) -> Step:
    return (baseline if form.plain else ours)(pair, form)


def timed(step: Step) -> float:
    """CPU seconds of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def peak() -> float:
    """MiB that this process held at most; ru_maxrss would begin with what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(pair: str, form: str) -> float:
    """MiB above what the process holds before its networks, after two steps, in a process of its own."""
    command = [sys.executable, __file__, "--memory", pair, form]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def table(name: str) -> None:
    pair = PAIRS[name]
    heights = f"{pair.crop[0]}x{pair.crop[1]}, {pair.batch} images"
    print(f"\n{name}: {heights}, recipe {RECIPE}")
    print(f"{'':<24}{'CPU s':>8}{'ratio':>8}{'img/s':>8}{'MiB':>8}")
    steps = {form: built(pair, settings) for form, settings in FORMS.items()}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(pair.turns + 1):
        for form, step in steps.items():
            took = timed(step)
            if turn:
                seconds[form].append(took)
    steps.clear()
    medians = {form: statistics.median(values) for form, values in seconds.items()}
    for form, median in medians.items():
        ratio = f"{medians['baseline'] / median:>7.2f}x"
        print(
            f"{form:<24}{median:>8.3f}{ratio}{pair.batch / median:>8.2f}{memory(name, form):>8.0f}",
            flush=True,
        )


def main(given: list[str]) -> None:
    torch.set_num_threads(1)
    if given[:1] == ["--memory"]:
        before, step = peak(), built(PAIRS[given[1]], FORMS[given[2]])
        step()
        step()
        print(peak() - before)
        return
    bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    print(f"{machine()}; bf16 in hardware: {bf16}")
    for name in given or PAIRS:
        table(name)
    print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
