"""Omni-contrast: every form against the way the released code computes it.

python benchmarks/contrast.py                  # all shapes; minutes
python benchmarks/contrast.py cityscapes       # one of them
python benchmarks/contrast.py --gpu            # batch 16 on a GPU

One forward and backward pass on one thread. Time: CPU seconds (on a GPU: seconds), all forms in turns in one
process, medians; a ratio is the median over rounds of that to the released way. Each form gets its maps in
the memory that its training step gives them: the released way NCHW, ours channels last. Memory: extra peak,
each form in a process of its own. "pooled" shapes begin at the maps after pooling, "whole" includes the
pooling.
Differences and logarithms, not products: no share of a peak of products is told.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from peak import begin_anew, held
from torch import Tensor

from afdcd.losses.afdcd import omni_contrast

SHAPES: dict[str, tuple[tuple[int, int, int, int], dict[str, int]]] = {
    "demo": ((8, 256, 6, 12), {"pool": 1, "patch_size": 3}),
    "narrow": ((2, 256, 16, 32), {"pool": 1, "patch_size": 4}),
    "cityscapes": ((2, 2048, 16, 32), {"pool": 1, "patch_size": 4}),
    "camvid": ((2, 2048, 44, 44), {"pool": 1, "patch_size": 4}),
    "narrow, whole": ((2, 256, 64, 128), {"pool": 4, "patch_size": 4}),
    "cityscapes, whole": ((2, 2048, 64, 128), {"pool": 4, "patch_size": 4}),
}
GPU_BATCH = 16
GROUPS, TEMPERATURE, ROUNDS = 16, 0.07, 7


def released_way(student: Tensor, teacher: Tensor, *, pool: int, patch_size: int) -> Tensor:
    return selection(*(x if pool == 1 else F.max_pool2d(x, pool) for x in (student, teacher)), patch_size)


def selection(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    """All distances, then boolean selections of positives and negatives, then cross-entropy to column 0."""
    anchors, others = (_cut(x, patch) for x in (student, teacher))
    similarity = -torch.cdist(anchors, others, p=1)
    blocks, rows, _ = similarity.shape
    group = torch.arange(rows, device=student.device) % GROUPS
    same = torch.eye(rows, dtype=torch.bool, device=student.device).expand(blocks, -1, -1)
    other_group = (group[:, None] != group[None, :]).expand(blocks, -1, -1)
    positive = similarity[same].view(blocks * rows, 1)
    negative = similarity[other_group].view(blocks * rows, -1)
    logits = torch.cat([positive, negative], 1) / TEMPERATURE
    labels = torch.zeros(blocks * rows, dtype=torch.long, device=student.device)
    return GROUPS * F.cross_entropy(logits, labels)


def _cut(features: Tensor, patch: int) -> Tensor:
    batch, channels, height, width = features.shape
    parts = features.reshape(batch, GROUPS, channels // GROUPS, height // patch, patch, width // patch, patch)
    return parts.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, patch**2 * GROUPS, channels // GROUPS)


def ours(form: str) -> Callable[..., Tensor]:
    return partial(omni_contrast, groups=GROUPS, temperature=TEMPERATURE, form=form)


FORMS: dict[str, Callable[..., Tensor]] = {
    "released way": released_way,
    **{form: ours(form) for form in ("dense", "chunked", "compiled", "native")},
}


def maps(shape: str, device: str) -> tuple[Tensor, Tensor, dict[str, int]]:
    size, options = SHAPES[shape]
    if device == "cuda":
        size = (GPU_BATCH, *size[1:])
    torch.manual_seed(0)
    student, teacher = torch.randn(size, device=device), torch.randn(size, device=device).relu()
    return student.requires_grad_(), teacher, options


def laid(form: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The maps in the memory that the form's training step gives them."""
    kind = torch.contiguous_format if form == "released way" else torch.channels_last
    student, teacher = (x.detach().contiguous(memory_format=kind) for x in (student, teacher))
    return student.requires_grad_(), teacher


def step(form: str, student: Tensor, teacher: Tensor, options: dict[str, int]) -> tuple[float, Tensor]:
    student.grad = None
    loss = FORMS[form](student, teacher, **options)
    loss.backward()
    assert student.grad is not None
    return loss.item(), student.grad


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def times(shape: str, device: str, *only: str) -> dict[str, tuple[float, float, float, float]]:
    """Form -> median seconds, ratio, relative difference of the loss and of the gradient (norm).

    `only` these forms beside the released way, where any is named.
    """
    drawn = maps(shape, device)
    options = drawn[2]
    forms = ["released way", *only] if only else list(FORMS)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    far: dict[str, tuple[float, float]] = {}
    given = {form: laid(form, *drawn[:2]) for form in forms}
    expected, slope = step("released way", *given["released way"], options)
    for form in forms:
        loss, gradient = step(form, *given[form], options)
        off = (gradient - slope).norm() / slope.norm()
        far[form] = (abs(loss / expected - 1), off.item())
    for _ in range(ROUNDS):
        for form in forms:
            start = clock(device)
            step(form, *given[form], options)
            seconds[form].append(clock(device) - start)
    first = seconds["released way"]
    return {
        form: (
            statistics.median(own),
            statistics.median(a / b for a, b in zip(first, own, strict=True)),
            *far[form],
        )
        for form, own in seconds.items()
    }


def memory(form: str, shape: str, device: str) -> float:
    """Extra peak of a pass in megabytes; on a CPU in a process that did nothing else."""
    *drawn, options = maps(shape, device)
    student, teacher = laid(form, *drawn)
    if device == "cuda":
        step(form, student, teacher, options)
        student.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(form, student, teacher, options)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # The first pass of a process loads libraries and builds kernels: two patches take that (of one patch
    # the kernels would be special).
    patch = options["patch_size"] * options["pool"]
    FORMS[form](*(x[:1, :, :patch, : 2 * patch] for x in (student, teacher)), **options).backward()
    student.grad = None
    begin_anew()
    before = held()
    step(form, student, teacher, options)
    return (held() - before) * 1.048576


def extra_memory(form: str, shape: str, device: str) -> float:
    if device == "cuda":
        return memory(form, shape, device)
    command = [sys.executable, __file__, "--memory", form, shape]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(shapes: list[str], device: str) -> None:
    print("| shape | form | s | faster | img/s | MB | leaner | loss differs | gradient differs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in shapes:
        measured = times(shape, device)
        extra = {form: max(0.1, extra_memory(form, shape, device)) for form in FORMS}
        for form, (seconds, ratio, loss, gradient) in measured.items():
            leaner = extra["released way"] / extra[form]
            images = GPU_BATCH if device == "cuda" else SHAPES[shape][0][0]
            print(
                f"| {shape} | {form} | {seconds:.4f} | {ratio:.1f}x | {images / seconds:.1f} | "
                f"{extra[form]:.1f} | {leaner:.1f}x | {loss:.0e} | {gradient:.0e} |",
                flush=True,
            )


def run(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments[:1] == ["--memory"]:
        print(memory(arguments[1], arguments[2], "cpu"))
        return
    device = "cpu"
    if "--gpu" in arguments:
        device = "cuda"
        arguments.remove("--gpu")
        FORMS["triton"] = ours("triton")
    unknown = [name for name in arguments if name not in SHAPES]
    if unknown:
        sys.exit(f"no shape is called {unknown[0]!r}; there are {', '.join(SHAPES)}")
    main(arguments or list(SHAPES), device)


if __name__ == "__main__":
    run(sys.argv[1:])
