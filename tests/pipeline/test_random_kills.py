"""Twenty kills at random moments of a training with every kind of state: the weights of an unbroken run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import tiny
from mortal import End, Stages
from trainer import curve, weights, write

from pipeline import paths

KILLS = 20
STAGE = ("pipeline.distill", "tiny", "full", "0")
MODEL = "tiny_full_0"
FULL: dict[str, Any] = {
    **tiny.RECIPES["afdcd"],
    "skd": {
        "weights": {"pairwise": 10.0, "adversarial": 0.1},
        "pool": 2,
        "discriminator_weight": 0.1,
        "discriminator_width": 4,
    },
    "cirkd": tiny.CIRKD | {"weights": {"memory_pixel": 0.1, "memory_region": 0.1}},
}
"""A generator, an opponent with an optimiser of its own, and queues."""


def prepare(params: dict[str, Any]) -> None:
    params["distill"] = {"run": ["full"], "recipes": {"full": FULL}}
    params["train"]["practice"] = tiny.PRACTICE | {"ema": 0.9, "checkpoint_every": 2}
    params["train"]["schedule"] = tiny.SCHEDULE | {"iterations": 40, "validate_every": 8}
    write(params)
    for stage in ("adapt", "distill"):
        Path(f"fingerprints/{stage}/full.json").write_text("{}")


def told(model: str) -> list[dict[str, str]]:
    """The curve without what a clock measured."""
    clock = ("seconds", "images_per_second")
    return [{name: value for name, value in row.items() if name not in clock} for row in curve(model)]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_weights_of_an_unbroken_run(
    params: dict[str, Any], tmp_path: Path
) -> None:
    prepare(params)
    with Stages(tmp_path) as stages:
        for stage in (("pipeline.train_teacher",), ("pipeline.adapt", "full"), STAGE):
            unbroken = stages.run(None, *stage)
            assert unbroken.code == 0
        expected = weights(MODEL), told(MODEL)

        moments, ends, resumed = random.Random(20), list[End](), 0
        while len(ends) < KILLS or not paths.trained(MODEL).exists():
            if paths.trained(MODEL).exists():  # Done before its last kill: once more, from the start.
                paths.trained(MODEL).rename(f"done{len(ends)}")
            resumed += any(paths.RUNS.glob("*/last.safetensors"))
            moment = moments.randrange(1, unbroken.calls // 3) if len(ends) < KILLS else None
            end = stages.run(moment, *STAGE)
            assert end.killed or end.code == 0, end
            ends += [end] if end.killed else []
            assert end.killed or (weights(MODEL), told(MODEL)) == expected, ends
    assert resumed >= KILLS // 2 and len({end.place for end in ends}) > KILLS // 2
    assert not any(paths.RUNS.iterdir())
