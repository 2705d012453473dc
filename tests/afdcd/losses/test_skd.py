from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import (
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    assert_rounding_near,
    maps,
    of_squared_cosines,
    orthogonal,
    permuted_pixels,
    vectors,
)
from contracts.method import CLASSES, STUDENT, TEACHER, MethodContract, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.skd import SKD, hinge_discriminator, hinge_generator, pairwise_affinity


def naive_nodes(image: Tensor, pool: int) -> list[list[Tensor]]:
    """Unit vectors of one image (C, H, W) after max pooling with whole and partial windows."""
    channels, height, width = image.shape
    nodes = []
    for top in range(0, height, pool):
        for left in range(0, width, pool):
            window = image[:, top : top + pool, left : left + pool].flatten(1)
            values = [max(window[c].unbind()) for c in range(channels)]
            length = sum(value**2 for value in values) ** 0.5
            nodes.append([value / length for value in values])
    return nodes


def naive(student: Tensor, teacher: Tensor, pool: int) -> Tensor:
    total, count = torch.zeros((), dtype=student.dtype), 0
    for s_image, t_image in zip(student, teacher, strict=True):
        s, t = naive_nodes(s_image, pool), naive_nodes(t_image, pool)
        for p in range(len(s)):
            for q in range(len(s)):
                of_student = sum(a * b for a, b in zip(s[p], s[q], strict=True))
                of_teacher = sum(a * b for a, b in zip(t[p], t[q], strict=True))
                total, count = total + (of_student - of_teacher) ** 2, count + 1
    return total / count


@pytest.mark.parametrize(
    ("shape", "channels", "pool"),
    [
        ((1, 2, 1, 3), 3, 1),
        ((2, 3, 4, 5), 2, 2),
        ((3, 2, 7, 1), 2, 2),
        ((1, 4, 3, 3), 5, 1),
        ((2, 3, 7, 5), 2, 3),
        ((1, 2, 2, 3), 2, 4),
    ],
)
def test_equals_the_loops(shape: tuple[int, ...], channels: int, pool: int) -> None:
    assert_equal_forms(
        lambda s, t: pairwise_affinity(s, t, pool=pool),
        lambda s, t: naive(s, t, pool),
        *maps(shape, (shape[0], channels, *shape[2:]), seed=1),
    )


def test_hand_values() -> None:
    student, teacher = vectors((1.0, 0.0), (1.0, 0.0)), vectors((1.0, 0.0), (0.0, 1.0))
    assert pairwise_affinity(student, teacher, pool=1).item() == pytest.approx(0.5, abs=1e-9)
    assert pairwise_affinity(student, teacher).item() == pytest.approx(0, abs=1e-9)  # one node
    scores = [torch.tensor([[value]]) for value in (0.0, 2.0)]
    assert hinge_discriminator(*scores).item() == 1 and hinge_generator(scores[0]).item() == 0
    assert hinge_discriminator(torch.tensor([-3.0, 1.0]), torch.tensor([0.5, -1.0])).item() == 1 + 1.25
    assert hinge_generator(torch.tensor([-3.0, 1.0])).item() == 1


def test_invariances_without_pooling() -> None:
    student, teacher = maps((2, 4, 3, 5), (2, 6, 3, 5))
    value = pairwise_affinity(student, teacher, pool=1)
    scale = maps((2, 1, 3, 5), seed=2)[0].exp()
    for pair in (
        (student * scale, teacher),
        (student, teacher * scale),
        (orthogonal(4)(student), teacher),
        (student, orthogonal(6)(teacher)),
        (permuted_pixels(student), permuted_pixels(teacher)),
    ):
        torch.testing.assert_close(pairwise_affinity(*pair, pool=1), value)
    for pair in ((student, permuted_pixels(teacher)), (student, teacher.flip(0))):
        assert not torch.isclose(pairwise_affinity(*pair, pool=1), value, rtol=1e-3)


def test_invariances_with_pooling() -> None:
    student, teacher = maps((2, 4, 5, 5), (2, 6, 5, 5))
    value = pairwise_affinity(student, teacher)
    for other in (3 * student, student[:, [2, 0, 3, 1]]):
        torch.testing.assert_close(pairwise_affinity(other, teacher), value)
    for other in (3 * teacher, teacher[:, [2, 0, 5, 3, 1, 4]]):
        torch.testing.assert_close(pairwise_affinity(student, other), value)
    scale = maps((2, 1, 5, 5), seed=2)[0].exp()
    for other in (student * scale, orthogonal(4)(student), -student):
        assert not torch.isclose(pairwise_affinity(other, teacher), value, rtol=1e-3)
    # Partial windows count: the last column matters.
    changed = student.clone()
    changed[..., 4] += 3 * changed[..., 4].abs() + maps((2, 4, 5), seed=3)[0].abs()
    assert not torch.isclose(pairwise_affinity(changed, teacher), value, rtol=1e-3)


def test_gradient_and_halves() -> None:
    student, teacher = maps((2, 3, 3, 3), (2, 4, 3, 3))
    assert_gradcheck(pairwise_affinity, student, teacher)
    assert_halves_average(pairwise_affinity, student, teacher)


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_the_teacher_the_rounding_keeps_to_its_bound(scale: float, pool: int) -> None:
    assert_rounding_near(
        lambda s, t: pairwise_affinity(s, t, pool=pool), of_squared_cosines, (2, 5, 9, 7), scale=scale
    )


def test_dead_cells_have_finite_gradients() -> None:
    student, teacher = (x.float() for x in maps((1, 3, 4, 4), (1, 3, 4, 4)))
    student[..., 1:3] = 0
    pairwise_affinity(student.requires_grad_(), teacher, pool=1).backward()
    assert student.grad is not None and student.grad.abs().max() < 10


def test_refusals() -> None:
    with pytest.raises(UserError, match="pool 0 must be at least 1"):
        pairwise_affinity(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), pool=0)
    with pytest.raises(UserError, match=r"pair-wise affinity: .*1, 3, 2, 2\).*2, 3, 2, 2\).*batch size"):
        pairwise_affinity(torch.zeros(1, 3, 2, 2), torch.zeros(2, 3, 2, 2))


class TestContract(MethodContract):
    name: ClassVar[str] = "skd"
    options: ClassVar[dict[str, Any]] = {"pool": 2, "discriminator_weight": 0.1, "discriminator_width": 4}
    falling: ClassVar[tuple[str, ...]] = ("pairwise",)
    moving: ClassVar[tuple[str, ...]] = ("adversarial",)

    def method(self) -> SKD:
        method = self.build().methods["skd"]
        assert isinstance(method, SKD)
        return method

    def test_options_reach_the_function_and_the_opponent(self) -> None:
        method, student, teacher = self.method(), output(STUDENT, 1), output(TEACHER, 2)
        assert student.head_features is not None and teacher.head_features is not None
        expected = pairwise_affinity(student.head_features, teacher.head_features, pool=self.options["pool"])
        assert method(student, teacher, target())["pairwise"].equal(expected)
        assert method.discriminator.halvings[0].weight.shape == (4, CLASSES, 4, 4)

    def test_the_adversarial_term_leads_no_gradient_into_the_opponent(self) -> None:
        method, student = self.method(), output(STUDENT, 1)
        method(student, output(TEACHER, 2), target())["adversarial"].backward()
        assert all(parameter.grad is None for parameter in method.parameters())
        assert student.logits is not None and student.logits.grad is not None and student.logits.grad.any()

    def test_the_student_is_scored_without_a_trace_and_the_opponent_takes_one_step(self) -> None:
        method, student, teacher = self.method(), output(STUDENT, 1), output(TEACHER, 2)
        before = [buffer.clone() for buffer in method.buffers()]
        method(student, teacher, target())
        assert before and all(map(torch.equal, method.buffers(), before))
        side = method.side_losses(student, teacher, target())
        assert not all(map(torch.equal, method.buffers(), before))
        assert student.logits is not None and teacher.logits is not None
        method.eval()
        scores = [method.discriminator(x.logits) for x in (student, teacher)]
        torch.testing.assert_close(side["discriminator"], 0.1 * hinge_discriminator(*scores))

    def test_the_opponent_learns_to_tell_the_networks_apart(self) -> None:
        method, student, teacher = self.method(), output(STUDENT, 1), output(TEACHER, 2)
        optimiser = torch.optim.Adam(method.parameters(), 0.02)
        values = []
        for _ in range(30):
            loss = method.side_losses(student, teacher, target())["discriminator"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < 0.3 * values[0]
        adversarial = method(student, teacher, target())["adversarial"]
        as_teacher = method(student._replace(logits=teacher.logits), teacher, target())["adversarial"]
        assert as_teacher < adversarial

    def test_without_the_adversarial_term_no_opponent_is_trained(self) -> None:
        objective = self.build(weights={"pairwise": 1.0})
        assert objective.side_losses(output(STUDENT, 1), output(TEACHER, 2), target()) == {}

    def test_the_opponent_has_the_released_adam_and_is_not_clipped(self) -> None:
        (group,) = self.method().param_groups()
        assert group.adam is not None and not group.clip
        assert (group.adam.lr, group.adam.betas) == (4e-4, (0.9, 0.99))

    def test_other_number_of_classes_is_refused(self) -> None:
        method, student = self.method(), output(STUDENT, 1)
        assert student.logits is not None
        with pytest.raises(UserError, match="adversarial term: .*same classes"):
            method(student._replace(logits=student.logits[:, :2]), output(TEACHER, 2), target())


class TestWithoutPooling(TestContract):
    options: ClassVar[dict[str, Any]] = {**TestContract.options, "pool": 1}
