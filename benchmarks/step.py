"""One distillation step, R101 -> R18 by Af-DCD, against a plain re-implementation of the released one.

python benchmarks/step.py            # both pairs; three minutes on one free core
python benchmarks/step.py demo       # one pair
python benchmarks/step.py compiled   # the compiled forms too

The baseline is float32 NCHW, the generator unfolded, the contrast by boolean selection over cdist, bilinear
upsampling by the operator, an optimiser parameter by parameter, the teacher to its logits, and every term
read at every step. Ours is the training loop's step. Same networks, weights and batch; each form has a
process of its own and they take turns, so ratios hold on a busy machine. MiB: peak of the resident set after
all steps less what the process held before its networks. GMACs: 1e9 multiply-accumulates an image in
convolutions and matrix products, both networks, forward and backward; "of peak": of what one core does in a
large float32 product (`peak.py`), so half types may pass 1. `compiled` needs a minute or two to compile, and
its work is not counted.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from contrast import selection
from method_time import PAIRS, Pair, images, machine
from peak import held
from torch import Tensor, nn
from work import counting

from afdcd.config import IGNORE_INDEX, ModelConfig, OptimiserConfig
from afdcd.losses.afdcd import AfDCD
from afdcd.losses.generator import random_keep_mask
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter
from afdcd.training.compiling import compile_networks
from afdcd.training.distillation import DistillationTask
from afdcd.training.distributed import World
from afdcd.training.memory import keep_freed_memory
from afdcd.training.native_modules import native_modules
from afdcd.training.optimisation import build_optimiser, clip_adapters
from afdcd.training.optimisation import step as update
from afdcd.training.precision import Precision, multiplies_bf16
from afdcd.training.task import Share, Supervision
from afdcd.training.watch import TermWatch
from pipeline.configure import compose

RECIPE = "afdcd"
READ_EVERY, WARM_UP = 8, 2
Step = Callable[[], None]


class Form(NamedTuple):
    """How a step is taken: `channels_last` and the two precisions of ours; the baseline has none of them."""

    bf16: bool = False
    teacher_bf16: bool = False
    compiled: bool = False
    plain: bool = False


FORMS = {
    "baseline": Form(plain=True),
    "ours, fp32": Form(),
    "ours, teacher in bf16": Form(teacher_bf16=True),
    "ours, bf16": Form(bf16=True, teacher_bf16=True),
    "ours, compiled": Form(compiled=True),
    "ours, bf16, compiled": Form(bf16=True, teacher_bf16=True, compiled=True),
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
    if form.compiled:
        compile_networks(task.networks())
    groups = task.groups()
    adapters = [p for group in groups if group.clip for p in group.parameters if p.requires_grad]
    optimiser, share = build_optimiser(parts.optimiser, groups), Share(1.0, torch.ones(()))
    watch, count = TermWatch(World(0, 1, torch.device("cpu"))), iter(range(10**6))

    def step() -> None:
        optimiser.zero_grad()
        with nullcontext() if form.compiled else native_modules(task.student):
            terms = task.losses(task.learner, batch, share)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        clip_adapters(adapters, parts.optimiser.clip_adapters)
        update(optimiser)
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
    """A form's step, in a process that is set up as that form's training is."""
    torch.set_num_threads(1)
    if form.plain:
        return baseline(pair, form)
    keep_freed_memory()
    return ours(pair, form)


class Turn(NamedTuple):
    """One step: CPU seconds, MiB that its process holds, GMACs an image where they were counted."""

    seconds: float
    held: float
    gmacs: float | None = None


def work(name: str, form: str, line: Connection) -> None:
    """Take a step whenever asked; the first is counted."""
    before, pair = held(), PAIRS[name]
    step = built(pair, FORMS[form])
    gmacs = None
    if not FORMS[form].compiled:
        with counting() as counter:
            step()
        gmacs = counter.get_total_flops() / 2e9 / pair.batch
    while line.recv():
        start = time.process_time()
        step()
        line.send(Turn(time.process_time() - start, held() - before, gmacs))


def asked(line: Connection) -> Turn:
    line.send(True)
    found: Turn = line.recv()
    return found


def core_peak() -> float:
    """GMAC/s of one core; from a process of its own, since threads of torch do not outlive a fork."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py"))]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0])


def table(name: str, forms: list[str]) -> dict[str, float]:
    """Time all forms in turns and print their rows; form -> how many times faster than the first."""
    pair, context = PAIRS[name], multiprocessing.get_context("fork")
    lines: dict[str, Connection] = {}
    for form in forms:
        lines[form], theirs = context.Pipe()
        context.Process(target=work, args=(name, form, theirs), daemon=True).start()
    found: dict[str, list[Turn]] = {form: [] for form in forms}
    for turn in range(WARM_UP + pair.turns):
        for form, line in lines.items():
            took = asked(line)
            if turn >= WARM_UP:
                found[form].append(took)
    for line in lines.values():
        line.send(False)
    medians = {form: statistics.median(turn.seconds for turn in turns) for form, turns in found.items()}
    ratios, best = {form: medians[forms[0]] / median for form, median in medians.items()}, core_peak()
    print(f"\n{name}: {pair.crop[0]}x{pair.crop[1]}, {pair.batch} images, recipe {RECIPE}")
    print(f"{'':<24}{'CPU s':>8}{'ratio':>8}{'img/s':>8}{'MiB':>8}{'GMACs':>8}{'of peak':>9}")
    for form, median in medians.items():
        last, pace = found[form][-1], pair.batch / median
        did = (
            "       -        -"
            if last.gmacs is None
            else f"{last.gmacs:>8.2f}{last.gmacs * pace / best:>9.2f}"
        )
        print(f"{form:<24}{median:>8.3f}{ratios[form]:>7.2f}x{pace:>8.2f}{last.held:>8.0f}{did}")
    return ratios


def main(given: list[str]) -> None:
    bf16 = multiplies_bf16("cpu")
    print(f"{machine()}; bf16 in hardware: {bf16}")
    if not bf16:
        print("forms in bf16 are left out: this CPU would emulate them, at a fraction of the speed of fp32")
    forms = [
        form
        for form, settings in FORMS.items()
        if (not settings.compiled or "compiled" in given) and (bf16 or not settings.teacher_bf16)
    ]
    for name in [each for each in given if each != "compiled"] or PAIRS:
        table(name, forms)
    print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
