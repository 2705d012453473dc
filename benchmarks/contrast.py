"""Omni-contrast: our chunks against the dense form and against the way the released code computes it.

python benchmarks/contrast.py            # all shapes; about half a minute
python benchmarks/contrast.py cityscapes # one of them

CPU seconds of one forward and backward pass on one thread (minimum of several), and its extra peak memory,
each form in a process of its own. Maps are as they are after pooling.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.losses import contrast
from afdcd.losses.afdcd import _patch_rows, omni_contrast

SHAPES = {
    "demo": ((8, 256, 6, 12), 3),
    "narrow": ((2, 256, 16, 32), 4),
    "cityscapes": ((2, 2048, 16, 32), 4),
    "camvid": ((2, 2048, 44, 44), 4),
}
GROUPS, TEMPERATURE, ROUNDS = 16, 0.07, 3


def chunks(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    return omni_contrast(student, teacher, pool=1, patch_size=patch, groups=GROUPS, temperature=TEMPERATURE)


def dense(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    rows = [_patch_rows(x, patch, GROUPS) for x in (student, teacher)]
    total = contrast.dense(*rows, temperature=TEMPERATURE, distance="l1", groups=GROUPS)
    return total / (rows[0].shape[0] * patch**2)


def selection(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    """All distances, then boolean selections of positives and negatives, then cross-entropy to column 0."""
    anchors, others = (_patch_rows(x, patch, GROUPS) for x in (student, teacher))
    similarity = -torch.cdist(anchors, others, p=1)
    blocks, rows, _ = similarity.shape
    group = torch.arange(rows) % GROUPS
    same = torch.eye(rows, dtype=torch.bool).expand(blocks, -1, -1)
    other_group = (group[:, None] != group[None, :]).expand(blocks, -1, -1)
    positive = similarity[same].view(blocks * rows, 1)
    negative = similarity[other_group].view(blocks * rows, -1)
    logits = torch.cat([positive, negative], 1) / TEMPERATURE
    labels = torch.zeros(blocks * rows, dtype=torch.long)
    return GROUPS * F.cross_entropy(logits, labels)


FORMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "released way": selection,
    "dense": dense,
    "chunks": chunks,
}


def measure(form: str, shape: str) -> None:
    """Print CPU seconds, extra peak megabytes, value and gradient norm of one form."""
    torch.set_num_threads(1)
    size, patch = SHAPES[shape]
    torch.manual_seed(0)
    student, teacher = torch.randn(size, requires_grad=True), torch.randn(size).relu()
    contrast_loss = FORMS[form]
    contrast_loss(student[:1, :, :patch, :patch], teacher[:1, :, :patch, :patch], patch).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        student.grad = None
        start = time.process_time()
        loss = contrast_loss(student, teacher, patch)
        loss.backward()
        seconds.append(time.process_time() - start)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert student.grad is not None
    print(min(seconds), extra, loss.item(), student.grad.norm().item())


def main(shapes: list[str]) -> None:
    heads = f"{'CPU s':>9}{'ratio':>8}{'MB':>9}{'ratio':>8}{'loss':>13}{'|gradient|':>12}"
    print(f"{'shape':<12}{'form':<14}{heads}")
    for shape in shapes:
        first: tuple[float, float] | None = None
        for form in FORMS:
            command = [sys.executable, __file__, "--measure", form, shape]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, extra, loss, gradient = map(float, done.stdout.split())
            first = first or (seconds, extra)
            ratios = first[0] / seconds, first[1] / max(extra, 0.1)
            print(
                f"{shape:<12}{form:<14}{seconds:>9.3f}{ratios[0]:>7.1f}x{extra:>9.1f}{ratios[1]:>7.1f}x"
                f"{loss:>13.3f}{gradient:>12.5f}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], sys.argv[3])
    else:
        main(sys.argv[1:] or list(SHAPES))
