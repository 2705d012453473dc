from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from loops import stop_after_five

from afdcd.training.stopping import StopRequest

RECIPE: dict[str, Any] = {
    "cwd": {"weights": {"channel_logits": 3.0, "channel_features": 50.0}, "temperature": 4.0},
    "skd": {
        "weights": {"pairwise": 10.0, "adversarial": 0.001},
        "pool": 2,
        "discriminator_weight": 0.1,
        "discriminator_width": 4,
    },
}


@pytest.fixture(autouse=True)
def adversarial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.RECIPES, "adversarial", RECIPE)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_run_with_an_opponent_resumes_bit_for_bit(workshop: Any, optimiser: str) -> None:
    workshop.schedule = tiny.schedule({"name": optimiser})
    unbroken = workshop.distillation("adversarial")
    expected = workshop.training(unbroken).run(StopRequest())
    assert "discriminator" in expected.rows[-1] and "weighted/adversarial" in expected.rows[-1]

    stop_after_five(workshop, "adversarial")
    resumed = workshop.distillation("adversarial")
    workshop.training(resumed).run(StopRequest())
    first, second = (task.learner.state_dict() for task in (unbroken, resumed))
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_both_networks_and_adapters_are_trained_and_the_teacher_is_not(workshop: Any) -> None:
    task = workshop.distillation("adversarial")
    before = {name: value.clone() for name, value in task.learner.named_parameters()}
    task._frozen.start(
        next(workshop.batches(0, 1)).images
    )  # the teacher's norms are folded in the first pass
    teacher = {name: value.clone() for name, value in task._teacher.state_dict().items()}
    workshop.training(task).run(StopRequest())
    after = dict(task.learner.named_parameters())
    still = {name for name in before if before[name].equal(after[name])}
    # Crops this small leave the attention one position, and nothing to choose from. Its values pass a gate
    # that starts at zero: a bias there may stay within half a rounding step.
    assert all(".query." in name or ".key." in name or name.endswith(".value.bias") for name in still)
    assert all(value.equal(teacher[name]) for name, value in task._teacher.state_dict().items())
    assert not any("objective" in name for name in task.student.deployed().state_dict())


def test_without_its_term_the_opponent_is_frozen(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = {**RECIPE["skd"], "weights": {"pairwise": 10.0}}
    monkeypatch.setitem(tiny.RECIPES, "quiet", {"skd": quiet})
    task = workshop.distillation("quiet")
    before = [value.clone() for value in task.objective.parameters()]
    workshop.training(task).run(StopRequest())
    assert all(map(torch.equal, task.objective.parameters(), before))
