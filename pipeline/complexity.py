"""Stage: parameters and multiply-accumulates of the teacher and of every student, as deployed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from afdcd.config import ModelConfig, Size
from afdcd.files import read_json, write_json
from afdcd.models.segmenter import Segmenter
from deploy.complexity import RULE, conv_gmacs, count_parameters, measure
from pipeline import cli, params, paths


class WithAuxiliary(nn.Module):
    """A network in eval mode together with its training-only head, to count both."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits and auxiliary logits of images (B, 3, H, W)."""
        output = self.network(images)
        auxiliary = self.network.auxiliary
        return output.logits, None if auxiliary is None else auxiliary(output.features[-2])


def describe(config: ModelConfig, num_classes: int, size: Size) -> dict[str, Any]:
    """Counts of one network as deployed, and with the auxiliary head as trained."""
    network = Segmenter(config, num_classes)
    shape = (1, 3, *size)
    deployed = measure(network.deployed(), shape)
    return {
        **deployed.model_dump(mode="json"),
        "training_parameters": count_parameters(network),
        "training_conv_gmacs": conv_gmacs(WithAuxiliary(network), shape),
    }


def main(given: list[str]) -> None:
    """Write reports/complexity.json."""
    cli.arguments(given)
    settings = params.load()
    num_classes = len(read_json(paths.PREPARED / "dataset.json")["classes"])
    size = settings.deploy.export.input_size
    networks = {"teacher": settings.teacher.model, **settings.students}
    write_json(
        paths.COMPLEXITY,
        {
            "rule": RULE,
            "input_size": list(size),
            "networks": {name: describe(config, num_classes, size) for name, config in networks.items()},
        },
    )


if __name__ == "__main__":
    cli.run(main)
