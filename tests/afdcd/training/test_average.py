from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from loops import same, stop_after_five

from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter
from afdcd.training.average import WeightAverage, decay_at
from afdcd.training.stopping import StopRequest


def test_the_decay_rises_to_its_limit() -> None:
    assert [decay_at(0.5, iteration) for iteration in (0, 1, 7, 8, 9, 10**6)] == [
        0.1, 2 / 11, 8 / 17, 0.5, 0.5, 0.5,
    ]  # fmt: skip


def test_weights_and_statistics_are_averaged_and_counts_copied(workshop: Any) -> None:
    student: Segmenter = workshop.supervised().student
    average = WeightAverage(student, 0.5)
    names = ("classifier.weight", "head.block.1.running_var", "head.block.1.num_batches_tracked")
    expected = {name: value.clone() for name, value in student.state_dict().items() if name in names}
    for iteration in (3, 20):
        for name, value in student.state_dict().items():
            if name in names:
                value += 1
                keep = decay_at(0.5, iteration) if value.is_floating_point() else 0
                expected[name] = keep * expected[name] + (1 - keep) * value
        average.update(iteration)
    found = average.network.state_dict()
    assert found.keys() == student.state_dict().keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.to(found[name].dtype))
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_mean_is_validated_and_kept_and_the_student_trains_on(workshop: Any) -> None:
    """Training itself is that without a mean; what is scored and saved is the mean, worked out by hand."""
    runs: dict[float | None, tuple[list[Any], Any]] = {}
    for decay in (None, 0.7):
        workshop.practice = tiny.practice(ema=decay)
        workshop.folder = workshop.folder / "next"
        seen: list[Any] = []
        steps: list[Any] = []
        scores = iter([0.2, 0.6])

        def validate(network: Segmenter, seen: Any = seen, scores: Any = scores) -> float:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
            return next(scores)

        workshop.validate = validate
        task = workshop.supervised()
        steps.append(task.student.classifier.weight.detach().clone())
        training = workshop.training(task)
        step = training._step

        def watched(*given: Any, step: Any = step, task: Any = task, steps: Any = steps) -> None:
            step(*given)
            steps.append(task.student.classifier.weight.detach().clone())

        training._step = watched
        training.run(StopRequest())
        assert same(dict(task.student.state_dict()), seen[1])
        runs[decay] = (seen, steps)
    plain, mean = runs[None], runs[0.7]
    assert all(ours.equal(theirs) for ours, theirs in zip(plain[1], mean[1], strict=True))
    expected = mean[1][0]
    for iteration, weight in enumerate(mean[1][1:]):
        keep = min(0.7, (1 + iteration) / (10 + iteration))
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(mean[0][1]["classifier.weight"], expected)
    assert not same(mean[0][1], plain[0][1])


def test_resumes_the_mean_bit_for_bit(workshop: Any) -> None:
    workshop.practice = tiny.practice(ema=0.9)
    unbroken = workshop.training(workshop.distillation())
    unbroken.run(StopRequest())

    stop_after_five(workshop)
    resumed = workshop.training(workshop.distillation())
    resumed.run(StopRequest())
    assert unbroken._average is not None and resumed._average is not None
    assert same(*(dict(each._average.network.state_dict()) for each in (unbroken, resumed)))
    assert same(*(dict(each.task.learner.state_dict()) for each in (unbroken, resumed)))


def test_a_mean_that_is_no_number_is_never_saved(workshop: Any, request_stop: StopRequest) -> None:
    workshop.practice = tiny.practice(ema=0.9)
    training = workshop.training(workshop.supervised())
    training._average.network.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="weights became NaN or infinite by iteration 1"):
        training.run(request_stop)
    assert workshop.run_folder.load() is None
