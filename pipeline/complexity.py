"""Stage: parameters and multiply-accumulates of the teacher and of every student, as deployed.

It builds every network, and the losses of every recipe that will run, before anything is trained: what probe
cannot see without torch is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from afdcd.config import IGNORE_INDEX, Size
from afdcd.errors import UserError
from afdcd.files import read_json, write_json
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter
from deploy.complexity import RULE, conv_gmacs, count_parameters, measure
from pipeline import cli, params, paths

TEACHER = "teacher"


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


def describe(network: Segmenter, size: Size) -> dict[str, Any]:
    """Counts of one network as deployed, and with the auxiliary head as trained."""
    shape = (1, 3, *size)
    deployed = measure(network.deployed(), shape)
    return {
        **deployed.model_dump(mode="json"),
        "training_parameters": count_parameters(network),
        "training_conv_gmacs": conv_gmacs(WithAuxiliary(network), shape),
    }


def require_fitting_recipes(settings: params.Params, networks: Mapping[str, Segmenter]) -> None:
    """Build the losses of every recipe that runs for every student that is trained, and drop them.

    Raises:
        UserError: a recipe's options do not fit the channels of teacher and student; both are named.
    """
    teacher = networks[TEACHER].channels
    weighted = settings.train.practice.class_weights != "none"
    class_weights = torch.ones(teacher.num_classes) if weighted else None
    for student, recipe in product(settings.train.students, settings.distill.run):
        context = Context(networks[student].channels, teacher, IGNORE_INDEX, class_weights)
        where = f"distill.recipes.{recipe}"
        try:
            build_objective(settings.distill.recipes[recipe], context, where=where)
        except UserError as error:
            raise UserError(f"{where} does not fit {student} and its teacher: {error}") from None


def main(given: list[str]) -> None:
    """Write reports/complexity.json.

    Raises:
        UserError: a network cannot be built, or a recipe does not fit.
    """
    cli.arguments(given)
    settings = params.load()
    num_classes = len(read_json(paths.PREPARED / "dataset.json")["classes"])
    size = settings.deploy.export.input_size
    configs = {TEACHER: settings.teacher.model, **settings.students}
    networks = {name: Segmenter(config, num_classes) for name, config in configs.items()}
    require_fitting_recipes(settings, networks)
    write_json(
        paths.COMPLEXITY,
        {
            "rule": RULE,
            "input_size": list(size),
            "networks": {name: describe(network, size) for name, network in networks.items()},
        },
    )


if __name__ == "__main__":
    cli.run(main)
