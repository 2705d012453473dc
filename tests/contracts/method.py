"""What every distillation method must satisfy; its test class inherits this and names options and terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.losses.method import Context, Target
from afdcd.losses.objective import Objective, build_objective
from afdcd.models.output import ChannelSpec, SegOutput, Stop
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


def cut(values: SegOutput, stop: Stop) -> SegOutput:
    """What a forward pass that ends at `stop` returns."""
    past = {"features": ("logits", "head_features"), "head_features": ("logits",), "logits": ()}[stop]
    return values._replace(**dict.fromkeys(past))


def labels_of(first: int | None, second: int | None) -> Tensor:
    """The usual labels, where an image given a label holds no other."""
    labels = target().labels
    for image, label in enumerate((first, second)):
        if label is not None:
            labels[image] = label
    return labels


class MethodContract:
    name: ClassVar[str]
    options: ClassVar[dict[str, Any]]
    falling: ClassVar[tuple[str, ...]]
    """Terms that 20 steps on one batch must lower: all but those of `moving`."""
    moving: ClassVar[tuple[str, ...]] = ()
    """Terms whose aim moves with each step: an opponent's, a queue's."""
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
        assert class_constant(METHODS[self.name], "label_terms") == cls.label_terms
        assert cls.label_terms == (() if self.label_free else self.of_labels or cls.terms)
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

    def test_nothing_is_learnt_that_no_term_needs(self) -> None:
        """A term alone trains all that its objective holds: nothing else is built, moved and kept."""
        for term in class_constant(METHODS[self.name], "terms"):
            objective = self.build(weights={term: 1.0})
            student, teacher = output(STUDENT, 1), output(TEACHER, 2)
            side = objective.side_losses(student, teacher, target())
            (objective.total(objective(student, teacher, target())) + sum(side.values())).backward()
            assert all(p.grad is not None for p in objective.parameters() if p.requires_grad), term
            grouped = [id(p) for group in objective.param_groups() for p in group.parameters]
            assert sorted(grouped) == sorted(id(p) for p in objective.parameters()), term

    def test_weight_scales_the_total(self) -> None:
        terms = class_constant(METHODS[self.name], "terms")
        objective = self.build(weights={term: 0.5 + i for i, term in enumerate(terms)})
        values = objective(output(STUDENT, 1), output(TEACHER, 2), target())
        expected = sum((0.5 + i) * values[term].item() for i, term in enumerate(terms))
        assert objective.total(values).item() == pytest.approx(expected, rel=1e-6)

    def test_every_term_must_fall_unless_its_aim_moves(self) -> None:
        assert {*self.falling, *self.moving} == set(class_constant(METHODS[self.name], "terms"))
        assert set(self.moving) <= {"adversarial", "memory_pixel", "memory_region"}

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
        (objective.total(terms) + sum(side.values())).backward()
        every = [*terms.values(), *side.values()]
        assert all(value.dtype == torch.float32 and value.isfinite() for value in every)
        self.assert_finite_gradients(half, objective)

    def assert_finite_gradients(self, student: SegOutput, objective: Objective) -> None:
        leaves = [*tensors(student), *objective.parameters()]
        assert all(leaf.grad.isfinite().all() for leaf in leaves if leaf.grad is not None)

    @pytest.mark.parametrize("dead", ["student", "teacher", "both"])
    def test_zero_features_are_finite(self, dead: str) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        if dead != "teacher":
            student = mapped(student, lambda x: torch.zeros_like(x, requires_grad=True))
        if dead != "student":
            teacher = mapped(teacher, torch.zeros_like)
        terms = objective(student, teacher, target())
        side = objective.side_losses(student, teacher, target())
        (objective.total(terms) + sum(side.values())).backward()
        assert all(value.isfinite() for value in [*terms.values(), *side.values()])
        self.assert_finite_gradients(student, objective)

    @pytest.mark.parametrize("first", [255, 1])
    @pytest.mark.parametrize("second", [255, 1, None])
    def test_images_ignored_or_of_one_class(self, first: int, second: int | None) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        given = target()._replace(labels=labels_of(first, second))
        terms = objective(student, teacher, given)
        side = objective.side_losses(student, teacher, given)
        assert all(value.isfinite() and value.requires_grad for value in [*terms.values(), *side.values()])
        (objective.total(terms) + sum(side.values())).backward()
        self.assert_finite_gradients(student, objective)
        if self.label_free:
            labelled = self.build()(student, teacher, target())
            assert all(terms[name].equal(labelled[name]) for name in terms)
        elif first == second == 255:
            assert not any(terms[name].item() for name in self.of_labels or terms)

    def test_gradients_are_the_numerical_ones(self) -> None:
        """In float64, to the student's maps and to all that a term trains; buffers as before each call."""
        objective = self.build().double()
        buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
        draw = torch.Generator().manual_seed(3)
        # Noise, since equal zeros are a kink of a maximum.
        student, teacher = (
            mapped(
                output(channels, seed),
                lambda x: (x + torch.randn(x.shape, generator=draw)).detach().double().requires_grad_(),
            )
            for channels, seed in ((STUDENT, 1), (TEACHER, 2))
        )
        parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        maps = list(tensors(student))

        def total(*leaves: Tensor) -> Tensor:
            state = dict(zip(parameters, leaves[len(maps) :], strict=True))
            state |= {name: buffer.clone() for name, buffer in buffers.items()}
            left = iter(leaves)
            moved = mapped(student, lambda x: next(left))
            return objective.total(functional_call(objective, state, (moved, teacher, target())))

        leaves = [*maps, *parameters.values()]
        trained = [x is not None for x in torch.autograd.grad(total(*leaves), leaves, allow_unused=True)]
        given = [leaf if used else leaf.detach() for leaf, used in zip(leaves, trained, strict=True)]
        assert torch.autograd.gradcheck(total, given, fast_mode=True)

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

    def test_both_networks_run_no_further_than_asked(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        expected = objective(student, teacher, target())
        short = cut(student, objective.student_stop), cut(teacher, objective.teacher_stop)
        found = self.build()(*short, target())
        assert all(found[name].equal(expected[name]) for name in expected)
        objective.side_losses(*short, target())

    def test_param_groups_hold_every_parameter_once(self, student_channels: ChannelSpec) -> None:
        objective = self.build(student_channels)
        grouped = [id(p) for group in objective.param_groups() for p in group.parameters]
        assert sorted(grouped) == sorted(id(p) for p in objective.parameters())

    def test_other_map_sizes_are_refused_with_both_shapes(self) -> None:
        smaller = (SIZE[0], SIZE[1] - 1)
        for term in class_constant(METHODS[self.name], "terms"):
            with pytest.raises(UserError, match=r"6, 7\).*6, 8\)"):
                objective = self.build(weights={term: 1.0})
                objective(output(STUDENT, 1, smaller), output(TEACHER, 2), target())

    def resizing(self) -> Objective:
        objective = self.build()
        objective.resize = "teacher_to_student"
        return objective

    @pytest.mark.parametrize("size", [(12, 16), (5, 4)])
    def test_resize_compares_with_the_teachers_maps_at_the_students_size(self, size: tuple[int, int]) -> None:
        """As if a teacher of that size had been given, for a finer and for a coarser teacher."""
        student, teacher = output(STUDENT, 1), output(TEACHER, 2, size)
        fields = {"logits": student.logits, "head_features": student.head_features}
        fitted = {
            name: F.interpolate(getattr(teacher, name), field.shape[-2:], mode="bilinear")
            for name, field in fields.items()
            if field is not None
        }
        stages = zip(teacher.features, student.features, strict=True)
        features = tuple(F.interpolate(t, s.shape[-2:], mode="bilinear") for t, s in stages)
        equal = teacher._replace(features=features, **fitted)
        first, second = self.build(), self.resizing()
        expected, found = first(student, equal, target()), second(student, teacher, target())
        assert set(found) == set(expected) and all(found[name].equal(expected[name]) for name in expected)
        side = second.side_losses(student, teacher, target())
        again = first.side_losses(student, equal, target())
        assert all(side[name].equal(again[name]) for name in again)
        (second.total(found) + sum(side.values())).backward()
        assert all(value.grad is None for value in tensors(teacher))
        assert any(value.grad is not None and value.grad.any() for value in tensors(student))

    def test_resize_leaves_equal_sizes_alone(self) -> None:
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        expected, found = (
            self.build()(student, teacher, target()),
            self.resizing()(student, teacher, target()),
        )
        assert all(found[name].equal(expected[name]) for name in expected)
