from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn
from trainer import card, curve, output, start, write

from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.output import ChannelSpec
from afdcd.training.distributed import World
from pipeline import distill, paths
from pipeline.training import Parts


def test_two_processes_train_as_one_does(taught: dict[str, Any]) -> None:
    """Real KD and Af-DCD on two gloo ranks through torchrun; ending with different weights would fail.

    Parts of two images give batch norm the same statistics in one process as in two, and without dropout
    the whole curve is that of one process.
    """
    taught["students"]["tiny"] = tiny.MODEL | {"dropout": 0.0, "projection_dropout": 0.0}
    taught["train"]["schedule"] = tiny.SCHEDULE | {"batch_size": 8}
    taught["train"]["practice"] = tiny.PRACTICE | {"micro_batch": 2}
    write(taught)
    distill.main(["tiny", "afdcd", "0"])
    alone = curve("tiny_afdcd_0")

    taught["runtime"]["processes"] = 2
    write(taught)
    process = start("pipeline.distill", "tiny", "afdcd", "0")
    told = output(process)
    assert process.returncode == 0, told
    assert told.count("8/8") == 1
    assert card("tiny_afdcd_0")["world_size"] == 2
    rows = curve("tiny_afdcd_0")
    assert len(rows) == len(alone) == 8
    for term in ("ce", "auxiliary", "kd", "masked_feature", "omni_contrast", "lr"):
        assert float(rows[0][term]) == pytest.approx(float(alone[0][term]), rel=1e-5)
        assert float(rows[-1][term]) == pytest.approx(float(alone[-1][term]), rel=1e-2)


def test_two_processes_tell_an_error_once(taught: dict[str, Any]) -> None:
    taught["runtime"]["processes"] = 2
    taught["train"]["practice"] = tiny.PRACTICE | {"micro_batch": 3}
    write(taught)
    process = start("pipeline.distill", "tiny", "kd", "0")
    told = output(process)
    assert process.returncode == 1
    assert told.count("is not divisible by 2 process(es) x train.practice.micro_batch 3 = 6") == 1
    assert told.startswith("error: ") and len(told.splitlines()) == 1, told


def test_batch_statistics_of_several_cpu_processes_are_refused(params: dict[str, Any]) -> None:
    params["runtime"]["processes"] = 2
    params["train"]["practice"] = tiny.PRACTICE | {"sync_bn": True}
    write(params)
    process = start("pipeline.train_student", "tiny", "0")
    told = output(process)
    assert process.returncode == 1 and told.count("sync_bn: true works on GPUs only") == 1, told
    assert told.startswith("error: ") and not paths.trained("tiny_alone_0").exists()


def test_a_recipes_own_batch_norm_is_shared_between_gpus_as_the_students() -> None:
    world = World(0, 2, torch.device("cpu"))
    channels = ChannelSpec((4, 4, 4, 4), 8, 3)
    for sync_bn, kind, other in (
        (True, nn.SyncBatchNorm, nn.BatchNorm2d),
        (False, nn.BatchNorm2d, nn.SyncBatchNorm),
    ):
        parts: Any = Parts(world, *[None] * 6, sync_bn)  # type: ignore[arg-type]
        memory = tiny.CIRKD | {"weights": {"memory_pixel": 1.0}}
        objective = build_objective({"cirkd": memory}, Context(channels, channels, 255, None))
        kinds = {type(module) for module in parts.shared(objective).modules()}
        assert kind in kinds and other not in kinds
