"""The frozen teacher of a distillation, beside the student: on a GPU in a stream of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from afdcd.models.output import SegOutput, Stop
from afdcd.native.kernels import prefers_product
from afdcd.training.convolution import freeze_convolutions
from afdcd.training.folding import fold_batch_norms
from afdcd.training.precision import Precision

Awaited = Callable[[], SegOutput]
"""Gives a teacher's output; what is queued after the call comes after the teacher's work."""

SHORT = 20e9
"""Multiply-accumulates of a pass's convolutions up to which it gains by running beside a step.

Measured on two cores: with 8e9 a tenth of the step is gained, with 16e9 a twentieth, with 33e9 nothing; with
35e9 of a ResNet-101 a tenth is lost.
"""

Start = Callable[[Tensor], Awaited]
"""Begins a teacher's pass over images (B, 3, H, W)."""


class FrozenTeacher:
    """A network in eval mode without gradients, which runs as far as the objective needs.

    On a CPU its batch norms are folded into its convolutions before the first pass, and in float32 those that
    gain by it are computed in Winograd's forms. Under bfloat16 the convolutions keep their weights in that
    format: the numbers that autocast would make at every step.
    """

    def __init__(self, network: nn.Module, stop: Stop, precision: Precision) -> None:
        self.network = network.eval().requires_grad_(False)
        self._stop: Stop = stop
        self._precision = precision
        self._prepared = False
        self._work = math.inf
        self._stream: torch.cuda.Stream | None = None
        if precision.device == "cuda":
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def gains_beside(self) -> bool:
        """Whether a pass over the next batch beside a step takes less time than before the step.

        It does where passes are short and kernels in C do most of both, which take whatever threads are
        idle. Elsewhere the one that ends first leaves half of the processor to nobody. Known after a pass.
        """
        return self._work <= SHORT and prefers_product()

    def start(self, images: Tensor) -> Awaited:
        """Begin the forward pass over images (B, 3, H, W); call what is returned when it is needed."""
        if not self._prepared:  # in the stream that made the weights: it is given their memory again
            self._prepare(images)
            self._prepared = True
        if (stream := self._stream) is None:
            output = self._run(images)
            return lambda: output
        # The teacher waits for the past of the student's stream and the student for the teacher: what is
        # freed in either stream is free in both when it is given out again.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self._run(images)

        def awaited() -> SegOutput:
            torch.cuda.current_stream().wait_stream(stream)
            return output

        return awaited

    def _run(self, images: Tensor) -> SegOutput:
        # Not inference_mode: losses save the teacher's maps for their backward pass.
        with torch.no_grad(), self._precision.context():
            found: SegOutput = self.network(images, stop=self._stop)
            return found

    def _prepare(self, images: Tensor) -> None:
        """Make weights what they are to be; images (B, 3, H, W) tell the size."""
        compiled = self.network._compiled_call_impl is not None
        if self._precision.device == "cpu" and not compiled:
            draw = torch.Generator().manual_seed(0)
            noise = torch.randint(0, 256, (1, *images.shape[1:]), dtype=images.dtype, generator=draw)

            def run() -> list[Tensor]:
                with torch.no_grad():
                    found: SegOutput = self.network(noise, stop=self._stop)
                rest = (found.logits, found.head_features, found.aux)
                return [*found.features, *(output for output in rest if output is not None)]

            fold_batch_norms(self.network, run)
            if not self._precision.bf16:
                self._work = len(images) * _work(self.network, run)
                freeze_convolutions(self.network)
        if self._precision.bf16:
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)


def _work(network: nn.Module, run: Callable[[], object]) -> int:
    """Multiply-accumulates of a network's convolutions in a pass."""
    found = 0

    def count(convolution: nn.Module, _: object, output: Tensor) -> None:
        nonlocal found
        assert isinstance(convolution, nn.Conv2d)
        found += output.numel() * convolution.weight[0].numel()

    hooks = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, nn.Conv2d)]
    run()
    for hook in hooks:
        hook.remove()
    return found
