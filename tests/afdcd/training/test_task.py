from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from afdcd.losses.cross_entropy import cross_entropy
from afdcd.training.distillation import DistillationTask
from afdcd.training.precision import Precision
from afdcd.training.task import Share, Supervision

WHOLE = Share(1.0, torch.ones(()))


def test_the_loss_is_cross_entropy_plus_the_weighted_auxiliary(workshop: Any) -> None:
    task = workshop.supervised()
    batch = next(workshop.batches(0, 1))
    torch.manual_seed(0)
    terms = task.losses(task.learner, batch, WHOLE)
    torch.manual_seed(0)
    output = task.student(batch.images)
    weights = task.supervision.class_weights
    main, aux = (
        cross_entropy(logits, batch.labels, ignore_index=255, class_weights=weights)
        for logits in (output.logits, output.aux)
    )
    assert terms["ce"].item() == pytest.approx(main.item())
    assert terms["loss"].item() == pytest.approx((main + 0.4 * aux).item())
    assert list(terms) == ["loss", "ce", "weighted/ce", "auxiliary", "weighted/auxiliary"]


def test_an_auxiliary_head_of_weight_zero_still_has_a_graph(workshop: Any) -> None:
    """Several processes wait for every gradient."""
    task = workshop.supervised()
    task.supervision.auxiliary_weight = 0.0
    task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)["loss"].backward()
    assert all(p.grad is not None for p in task.learner.parameters())


def test_the_label_mass_divides_the_weighted_mean() -> None:
    labels = torch.tensor([[[0, 1, 255, 1]]], dtype=torch.uint8)
    assert Supervision(torch.tensor([2.0, 0.5]), 0.4).mass(labels).item() == 3.0
    assert Supervision(None, 0.4).mass(labels).item() == 3.0


def test_the_label_mass_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(9, generator=generator) + 0.5
    labels = torch.randint(0, 10, (3, 17, 23), generator=generator)
    labels[labels == 9] = 255
    expected = sum(weights.tolist()[label] for label in labels.flatten().tolist() if label != 255)
    for kind in (torch.uint8, torch.int64):
        found = Supervision(weights, 0.4).mass(labels.to(kind))
        assert found.dtype == torch.float32 and found.item() == pytest.approx(expected, rel=1e-6)


def test_the_teacher_learns_nothing_and_keeps_its_statistics(workshop: Any) -> None:
    task: DistillationTask = workshop.distillation()
    task._frozen.start(next(workshop.batches(0, 1)).images)  # its norms are folded in the first pass
    before = {name: tensor.clone() for name, tensor in task._teacher.state_dict().items()}
    task.learner.train()
    task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)["loss"].backward()
    assert all(tensor.equal(before[name]) for name, tensor in task._teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in task._teacher.parameters())
    assert all(p.grad is not None for p in task.learner.parameters())
    assert not any("teacher" in name for name in task.learner.state_dict())


def test_the_teacher_stops_where_the_objective_allows(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.RECIPES, "features", {"afdcd": tiny.RECIPES["afdcd"]["afdcd"]})
    for recipe, reaches_logits in {"features": False, "kd": True}.items():
        task: DistillationTask = workshop.distillation(recipe)
        seen = []
        task._teacher.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
        task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)
        assert (seen[0].logits is not None) is reaches_logits


def test_adapters_are_the_groups_that_are_clipped(workshop: Any) -> None:
    task: DistillationTask = workshop.distillation()
    student, *adapters = task.groups()
    assert not student.clip and len(student.parameters) == len(list(task.student.parameters()))
    assert all(group.clip for group in adapters)
    assert sum(len(group.parameters) for group in adapters) == len(list(task.objective.parameters())) > 0


def test_bf16_computes_in_bf16_and_loses_in_float32(workshop: Any) -> None:
    task = workshop.supervised()
    task.precision = Precision("cpu", bf16=True)
    seen = []
    task.student.register_forward_hook(lambda module, args, output: seen.append(output.logits.dtype))
    terms = task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in terms.values()} == {torch.float32}
