"""What every distillation method must satisfy; its test class inherits this and names options and terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.losses.method import Context, Target
from afdcd.losses.objective import Objective, build_objective
from afdcd.models.output import ChannelSpec, SegOutput
from afdcd.plugins import class_constant, constructor_model, resolve

BATCH, CLASSES, SIZE, STRIDE = 2, 3, (6, 8), 8
STUDENT = ChannelSpec(features=(4, 6), head_features=5, num_classes=CLASSES)
TEACHER = ChannelSpec(features=(4, 8), head_features=7, num_classes=CLASSES)


def output(channels: ChannelSpec, seed: int, size: tuple[int, int] = SIZE) -> SegOutput:
    """A random forward pass of leaf tensors, features after a ReLU as real ones are."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(count: int, scale: int, relu: bool) -> Tensor:
        values = torch.randn(BATCH, count, size[0] * scale, size[1] * scale, generator=draw)
        return (values.relu() if relu else values).requires_grad_()

    return SegOutput(
        logits=leaf(channels.num_classes, 1, False),
        features=(leaf(channels.features[0], 2, True), leaf(channels.features[1], 1, True)),
        head_features=leaf(channels.head_features, 1, True),
        aux=None,
    )


def tensors(values: SegOutput) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif value is not None:
            yield from value


def mapped(values: SegOutput, change: Any) -> SegOutput:
    return SegOutput(
        change(values.logits), tuple(map(change, values.features)), change(values.head_features), None
    )


def target(seed: int = 0) -> Target:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (BATCH, SIZE[0] * STRIDE, SIZE[1] * STRIDE), generator=draw)
    labels[:, :5] = 255
    return Target(labels, torch.arange(10, 10 + BATCH))


class MethodContract:
    name: ClassVar[str]
    options: ClassVar[dict[str, Any]]
    falling: ClassVar[tuple[str, ...]]
    """Terms that 20 steps on one batch must lower."""
    additive: ClassVar[bool] = True
    """The mean over single images is the value of the batch, for all terms."""
    label_free: ClassVar[bool] = True
    of_labels: ClassVar[tuple[str, ...]] = ()
    """Terms that look at labels, where some do and others do not."""

    @pytest.fixture(params=["other", "equal"])
    def student_channels(self, request: pytest.FixtureRequest) -> ChannelSpec:
        return STUDENT if request.param == "other" else TEACHER

    def build(self, student: ChannelSpec = STUDENT, weights: dict[str, float] | None = None) -> Objective:
        torch.manual_seed(0)
        terms = class_constant(METHODS[self.name], "terms")
        context = Context(student, TEACHER, 255, torch.tensor([0.5, 1.0, 2.0]))
        recipe = {self.name: {"weights": weights or dict.fromkeys(terms, 1.0), **self.options}}
        return build_objective(recipe, context)

    def test_source_text_tells_the_truth(self) -> None:
        cls = resolve(METHODS, self.name, "method")
        assert class_constant(METHODS[self.name], "terms") == cls.terms
        assert class_constant(METHODS[self.name], "has_first_phase") == cls.has_first_phase
        assert set(constructor_model(METHODS[self.name]).model_fields) == set(self.options)

    def test_terms_are_float32_scalars_that_lead_to_the_student_only(
        self, student_channels: ChannelSpec
    ) -> None:
        objective = self.build(student_channels)
        student, teacher = output(student_channels, 1), output(TEACHER, 2)
        terms = objective(student, teacher, target())
        assert set(terms) == set(objective.weights)
        assert all(value.shape == () and value.dtype == torch.float32 for value in terms.values())
        objective.total(terms).backward()
        assert all(value.grad is None for value in tensors(teacher))
        assert any(value.grad is not None and value.grad.any() for value in tensors(student))

    def test_every_parameter_is_trained_or_frozen(self, student_channels: ChannelSpec) -> None:
        objective = self.build(student_channels)
        student, teacher = output(student_channels, 1), output(TEACHER, 2)
        terms = objective(student, teacher, target())
        side = objective.side_losses(student, teacher, target())
        assert all(value.shape == () and value.dtype == torch.float32 for value in side.values())
        (objective.total(terms) + sum(side.values())).backward()
        assert all(value.grad is None for value in tensors(teacher))
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)

    def test_side_losses_do_not_touch_the_student(self) -> None:
        objective, student = self.build(), output(STUDENT, 1)
        for value in objective.side_losses(student, output(TEACHER, 2), target()).values():
            value.backward()
        assert all(value.grad is None for value in tensors(student))

    def test_each_term_alone_leads_to_the_student(self) -> None:
        for term in class_constant(METHODS[self.name], "terms"):
            objective, student = self.build(weights={term: 1.0}), output(STUDENT, 1)
            terms = objective(student, output(TEACHER, 2), target())
            assert set(terms) == {term}
            terms[term].backward()
            assert any(value.grad is not None and value.grad.any() for value in tensors(student)), term

    def test_weight_scales_the_total(self) -> None:
        terms = class_constant(METHODS[self.name], "terms")
        objective = self.build(weights={term: 0.5 + i for i, term in enumerate(terms)})
        values = objective(output(STUDENT, 1), output(TEACHER, 2), target())
        expected = sum((0.5 + i) * values[term].item() for i, term in enumerate(terms))
        assert objective.total(values).item() == pytest.approx(expected, rel=1e-6)

    def test_each_term_falls(self, student_channels: ChannelSpec) -> None:
        for term in self.falling:
            objective = self.build(student_channels, {term: 1.0})
            student, teacher = output(student_channels, 1), output(TEACHER, 2)
            values = self.descend(objective, student, teacher, steps=20)
            assert values[-1] < 0.9 * values[0], term

    def descend(
        self, objective: Objective, student: SegOutput, teacher: SegOutput, steps: int
    ) -> list[float]:
        leaves = [*tensors(student), *objective.parameters()]
        optimiser = torch.optim.Adam(leaves, lr=0.02)
        values = []
        for _ in range(steps + 1):
            optimiser.zero_grad()
            loss = objective.total(objective(student, teacher, target()))
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        return values

    def test_bf16_autocast_is_finite_and_wide(self) -> None:
        objective = self.build()
        half = mapped(output(STUDENT, 1), lambda x: (20 * x).bfloat16().detach().requires_grad_())
        with torch.autocast("cpu", torch.bfloat16):
            teacher = mapped(output(TEACHER, 2), lambda x: (20 * x).bfloat16())
            terms = objective(half, teacher, target())
            side = objective.side_losses(half, teacher, target())
        objective.total(terms).backward()
        every = [*terms.values(), *side.values()]
        assert all(value.dtype == torch.float32 and value.isfinite() for value in every)
        assert all(value.grad.isfinite().all() for value in tensors(half) if value.grad is not None)

    def test_zero_features_are_finite(self) -> None:
        objective = self.build()
        student = mapped(output(STUDENT, 1), lambda x: torch.zeros_like(x, requires_grad=True))
        terms = objective(student, mapped(output(TEACHER, 2), torch.zeros_like), target())
        objective.total(terms).backward()
        assert all(value.isfinite() for value in terms.values())
        assert all(value.grad.isfinite().all() for value in tensors(student) if value.grad is not None)
        assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())

    @pytest.mark.parametrize("label", [255, 1])
    def test_all_pixels_ignored_or_of_one_class(self, label: int) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        terms = objective(student, teacher, target()._replace(labels=torch.full_like(target().labels, label)))
        objective.total(terms).backward()
        assert all(value.isfinite() for value in terms.values())
        if self.label_free:
            labelled = objective(student, teacher, target())
            assert all(terms[name].equal(labelled[name]) for name in terms)
        elif label == 255:
            assert not any(terms[name].item() for name in self.of_labels or terms)

    def test_images_average_to_the_batch_or_are_compared(self) -> None:
        objective, student, teacher, whole = self.build(), output(STUDENT, 1), output(TEACHER, 2), target()
        expected = objective(student, teacher, whole)
        halves = [
            objective(
                mapped(student, lambda x, i=i: x[i : i + 1]),
                mapped(teacher, lambda x, i=i: x[i : i + 1]),
                Target(whole.labels[i : i + 1], whole.keys[i : i + 1]),
            )
            for i in range(BATCH)
        ]
        equal = [
            torch.allclose(sum(half[name] for half in halves) / BATCH, value, rtol=1e-5, atol=1e-6)
            for name, value in expected.items()
        ]
        assert all(equal) == self.additive

    def test_same_keys_same_values(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        torch.manual_seed(1)
        first = objective(student, teacher, target())
        torch.manual_seed(2)
        again = objective(student, teacher, target())
        assert all(first[name].equal(again[name]) for name in first)

    def test_param_groups_hold_every_parameter_once(self, student_channels: ChannelSpec) -> None:
        objective = self.build(student_channels)
        grouped = [id(p) for group in objective.param_groups() for p in group.parameters]
        assert sorted(grouped) == sorted(id(p) for p in objective.parameters())

    def test_other_map_sizes_are_refused_with_both_shapes(self) -> None:
        smaller = (SIZE[0], SIZE[1] - 1)
        with pytest.raises(UserError, match=r"6, 7\).*6, 8\)"):
            self.build()(output(STUDENT, 1, smaller), output(TEACHER, 2), target())
