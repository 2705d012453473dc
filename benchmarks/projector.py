"""The masked generator (align, 3x3, ReLU, 3x3) forward and backward, against its plain form.

python benchmarks/projector.py          # the table of work, then the sizes one after the other; two minutes
python benchmarks/projector.py small    # one size
python benchmarks/projector.py count    # the work of DeepLabV3-ResNet-101 -> ResNet-18 at 512x1024 alone

Baseline: align, mask, two convolutions as they are written, float32, NCHW. CPU seconds of one thread, all
forms in turns in one process; medians. Our forms choose their way as in training, but for what their names
say. Work: 1e9 multiply-accumulates of an image in convolutions and matrix products, forward, input gradient
and weight gradients; the composition of the folded weights, once a step, is shared by a process's images.
Sums are not counted. "of peak": of what one core does in a large float32 product (`peak.py`); Winograd's and
dropped cells' products are not made, so they are not in it. A GPU, where there is one, is timed by its own
events.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from method_cost import shapes_only
from method_time import machine
from peak import peak
from torch import Tensor
from work import counting

from afdcd.losses import generator as ways
from afdcd.losses.generator import MaskedGenerator, random_keep_mask

MASK_RATIO, BATCH, TURNS = 0.75, 2, 5
FULL = (512, 2048, 64, 128)


class Size(NamedTuple):
    """Channels of student and teacher, and the map's size."""

    student: int
    teacher: int
    height: int
    width: int


SIZES = {"small": Size(64, 256, 32, 64), "wide": Size(256, 1024, 32, 64), "r101": Size(512, 2048, 16, 32)}


class Form(NamedTuple):
    """A way of computing; `switches` are set in `afdcd.losses.generator`. A bottleneck is another network."""

    name: str
    plain: bool = False
    narrow: bool = False
    bottleneck: bool = False
    switches: dict[str, Any] = {}  # noqa: RUF012


DENSE, DIRECT = {"_few_are_kept": lambda *_: False}, {"_is_large": lambda *_: False}
FORMS = [
    Form("plain fp32 NCHW", plain=True),
    Form("folded alone", switches=DENSE | DIRECT),
    Form("without Winograd", switches=DIRECT),
    Form("ours"),
    Form("plain bf16", plain=True, narrow=True),
    Form("folded alone bf16", narrow=True, switches=DENSE | DIRECT),
    Form("ours bf16", narrow=True),
    Form("bottleneck", bottleneck=True),
]


def plain(module: MaskedGenerator, features: Tensor, keep: Tensor) -> Tensor:
    """The definition, as the released code computes it."""
    assert module.align is not None
    found: Tensor = module.second(F.relu(module.first(module.align(features) * keep)))
    return found


@contextmanager
def switched(form: Form, device: str) -> Iterator[None]:
    """Inside, the generator takes this form's way."""
    with ExitStack() as stack:
        for name, value in form.switches.items():
            stack.enter_context(mock.patch.object(ways, name, value))
        stack.enter_context(torch.autocast(device, torch.bfloat16, form.narrow))
        yield


def run(form: Form, module: MaskedGenerator, features: Tensor, keep: Tensor, slopes: Tensor) -> None:
    """One forward and backward pass."""
    module.zero_grad()
    with switched(form, features.device.type):
        guess = plain(module, features, keep) if form.plain else module(features, keep)
    guess.backward(slopes.to(guess.dtype))


def inputs(form: Form, size: Size, device: str, last: bool) -> tuple[MaskedGenerator, Tensor, Tensor, Tensor]:
    """A generator, the student's map, the mask and the guess's gradient; `last`: channels last in memory."""
    torch.manual_seed(0)
    memory = torch.channels_last if last else torch.contiguous_format
    with torch.device(device):
        module = MaskedGenerator(size.student, size.teacher, size.teacher // 4 if form.bottleneck else None)
    if last:  # bare shapes know only the other
        module.to(memory_format=memory)
    maps = (torch.randn(BATCH, n, *size[2:], device=device) for n in size[:2])
    features, slopes = (x.contiguous(memory_format=memory) for x in maps)
    keep = random_keep_mask(torch.arange(BATCH, device=device), features, MASK_RATIO)
    return module, features.requires_grad_(), keep, slopes


def counted(form: Form, given: tuple[MaskedGenerator, Tensor, Tensor, Tensor]) -> float:
    """GMACs of an image."""
    with counting() as counter:
        run(form, *given)
    return counter.get_total_flops() / 2e9 / BATCH


def count() -> dict[str, float]:
    """The work at 512x1024 by form; those that look at no values are counted on shapes alone."""
    size, found = Size(*FULL), {}
    print(f"\nGMACs an image, 512x1024, {size.student} -> {size.teacher} channels, {BATCH} images a process")
    for form in [*FORMS[:4], FORMS[-1]]:
        bare = form.plain or "_few_are_kept" in form.switches
        with shapes_only() if bare else nullcontext():
            given = inputs(form, size, "cpu", last=not bare)
            found[form.name] = counted(form, given)
        print(f"{form.name:<20}{found[form.name]:>9.1f}", flush=True)
    return found


def cpu_seconds(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def gpu_seconds(call: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def table(name: str, size: Size, device: str) -> None:
    """Time all forms of a size in turns, and print their rows."""
    timer = gpu_seconds if device == "cuda" else cpu_seconds
    given = [inputs(form, size, device, last=not form.plain or form.narrow) for form in FORMS]
    work = [counted(form, parts) for form, parts in zip(FORMS, given, strict=True)]
    seconds: list[list[float]] = [[] for _ in FORMS]
    for turn in range(TURNS + 1):
        for form, parts, found in zip(FORMS, given, seconds, strict=True):
            spent = timer(lambda form=form, parts=parts: run(form, *parts))  # type: ignore[misc]
            if turn:
                found.append(spent)
    channels = f"{size.student} -> {size.teacher} channels, {size.height}x{size.width}"
    print(f"\n{name}: {channels}, {BATCH} images, {device}")
    print(f"{'':<20}{'s':>9}{'ratio':>8}{'GMACs':>9}{'img/s':>8}{'of peak':>9}")
    first = statistics.median(seconds[0])
    for form, found, gmacs in zip(FORMS, seconds, work, strict=True):
        middle = statistics.median(found)
        pace = BATCH / middle
        share = f"{gmacs * pace / peak():.2f}" if device == "cpu" else "-"
        print(f"{form.name:<20}{middle:>9.4f}{first / middle:>7.2f}x{gmacs:>9.1f}{pace:>8.2f}{share:>9}")


def main(given: list[str]) -> None:
    torch.set_num_threads(1)
    print(machine())
    for name in given or ["count", *SIZES]:
        if name == "count":
            count()
            continue
        table(name, SIZES[name], "cpu")
        if torch.cuda.is_available():
            table(name, SIZES[name], "cuda")
    print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
