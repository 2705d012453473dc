from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from contracts.forms import (
    D,
    assert_equal_forms,
    assert_gradcheck,
    assert_halves_average,
    maps,
    orthogonal,
    permuted_pixels,
    vectors,
)
from contracts.method import BATCH, CLASSES, STUDENT, TEACHER, MethodContract, mapped, output, target
from torch import Tensor

from afdcd.errors import UserError
from afdcd.losses.cirkd import (
    CIRKD,
    memory_relation,
    mini_batch_pixel,
    pixels_of_classes,
    regions_of_classes,
)
from afdcd.losses.method import Context, Target
from afdcd.models.output import ChannelSpec, SegOutput

SHAPES = [(1, 2, 1, 3), (2, 3, 3, 2), (3, 4, 1, 5), (2, 1, 3, 3), (1, 5, 5, 3), (3, 2, 2, 3)]


def cells(features: Tensor) -> list[list[Tensor]]:
    """Each image's cells at unit length."""
    return [
        [vector / vector.square().sum().sqrt() for vector in image.flatten(1).unbind(1)] for image in features
    ]


def divergence(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    """KL of the softmaxes of two lists of cosines."""
    q, p = ([(x / temperature).exp() for x in row] for row in (student, teacher))
    return sum(
        (b / sum(p) * ((b / sum(p)).log() - (a / sum(q)).log()) for a, b in zip(q, p, strict=True)),
        torch.zeros((), dtype=D),
    )


def naive_mini_batch(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    ours, theirs = cells(student), cells(teacher)
    total, batch = torch.zeros((), dtype=D), len(student)
    for i in range(batch):
        for j in range(batch):
            rows = [
                divergence([s @ x for x in ours[j]], [t @ x for x in theirs[j]], temperature)
                for s, t in zip(ours[i], theirs[i], strict=True)
            ]
            total = total + torch.stack(rows).mean()
    return total / batch**2


def naive_memory(
    student: Tensor, teacher: Tensor, bank: Tensor, temperature: float, filled: Tensor, taken: Tensor
) -> Tensor:
    ours, theirs = cells(student), cells(teacher)
    known = [vector for vector, there in zip(bank, filled, strict=True) if there]
    rows = [
        divergence([s @ v for v in known], [t @ v for v in known], temperature)
        for b in range(len(student))
        for i, (s, t) in enumerate(zip(ours[b], theirs[b], strict=True))
        if taken[b].flatten()[i]
    ]
    return torch.stack(rows).mean() if rows and known else 0 * student.sum()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("teacher_channels", [2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_mini_batch_equals_the_loops(shape: Any, teacher_channels: int, temperature: float) -> None:
    assert_equal_forms(
        lambda s, t: mini_batch_pixel(s, t, temperature=temperature),
        lambda s, t: naive_mini_batch(s, t, temperature),
        *maps(shape, (shape[0], teacher_channels, *shape[2:]), seed=1),
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_equals_the_loops(shape: Any, temperature: float) -> None:
    draw = torch.Generator().manual_seed(2)
    bank = torch.nn.functional.normalize(torch.randn(7, shape[1], generator=draw, dtype=D))
    filled = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    bank[~filled] = 0
    taken = torch.rand(shape[0], *shape[2:], generator=draw) < 0.6
    student, teacher = maps(shape, shape, seed=2)
    assert_equal_forms(
        lambda s, t: memory_relation(s, t, bank, temperature=temperature, filled=filled, taken=taken),
        lambda s, t: naive_memory(s, t, bank, temperature, filled, taken),
        student,
        teacher,
    )
    full, every = torch.ones_like(filled), torch.ones_like(taken)
    expected = naive_memory(student, teacher, bank, temperature, full, every)
    torch.testing.assert_close(memory_relation(student, teacher, bank, temperature=temperature), expected)


def test_hand_value() -> None:
    equal, orthogonal_ = vectors((1.0, 0.0), (1.0, 0.0)), vectors((1.0, 0.0), (0.0, 1.0))
    assert mini_batch_pixel(equal, orthogonal_, temperature=1.0).item() == pytest.approx(
        0.110944072, abs=1e-9
    )


def test_mini_batch_invariances() -> None:
    student, teacher = maps((3, 4, 2, 3), (3, 5, 2, 3), seed=3)
    value = mini_batch_pixel(student, teacher)
    scale = 0.2 + maps((3, 1, 2, 3), seed=4)[0].abs()
    for s, t in (
        (student * scale, teacher),
        (student, teacher * scale),
        (orthogonal(4)(student), orthogonal(5)(teacher)),
        (student[[2, 0, 1]], teacher[[2, 0, 1]]),
        (permuted_pixels(student), permuted_pixels(teacher)),
    ):
        torch.testing.assert_close(mini_batch_pixel(s, t), value)
    alone = torch.stack([mini_batch_pixel(student[i : i + 1], teacher[i : i + 1]) for i in range(3)]).mean()
    for other in (
        alone,
        mini_batch_pixel(student + 1, teacher),
        mini_batch_pixel(permuted_pixels(student), teacher),
    ):
        assert not torch.isclose(other, value, rtol=1e-3)


def test_gradchecks_and_halves() -> None:
    student, teacher = maps((2, 3, 2, 2), (2, 3, 2, 2), seed=5)
    bank = torch.nn.functional.normalize(maps((4, 3), seed=6)[0])
    assert_gradcheck(lambda s, t: mini_batch_pixel(s, t, temperature=0.5), student, teacher)
    assert_gradcheck(lambda s, t: memory_relation(s, t, bank), student, teacher)
    assert_halves_average(lambda s, t: memory_relation(s, t, bank), student, teacher)


def test_a_perfect_student_costs_nothing() -> None:
    _, teacher = maps((2, 3, 2, 4), (2, 3, 2, 4), seed=7, relu=True)
    assert mini_batch_pixel(teacher, teacher).item() == 0
    assert mini_batch_pixel(teacher.float(), 2 * teacher.float()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("gone", ["cells", "memory"])
def test_memory_without_cells_or_vectors_is_a_zero_with_a_graph(gone: str) -> None:
    student, teacher = maps((1, 2, 2, 2), (1, 2, 2, 2))
    taken = torch.full((1, 2, 2), gone == "memory")
    filled = torch.full((3,), gone == "cells")
    value = memory_relation(student.requires_grad_(), teacher, torch.zeros(3, 2), filled=filled, taken=taken)
    value.backward()
    assert value.item() == 0 and student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("loss", [mini_batch_pixel, lambda s, t, **o: memory_relation(s, t, s[0, :, 0], **o)])
def test_impossible_temperature(loss: Any) -> None:
    with pytest.raises(UserError, match="above 0, got 0"):
        loss(*maps((1, 2, 2, 2), (1, 2, 2, 2)), temperature=0)


def labelled(seed: int) -> tuple[Tensor, Tensor]:
    """Features that are each cell's class and number, and where cells are of a class; class 2 is absent."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (3, 11), generator=draw)
    labels[:, 4] = 255
    labels[0, :3] = 3
    features = torch.stack([labels, torch.arange(33).view(3, 11)], 1).to(D)
    return features, labels[:, None] == torch.arange(4)[:, None]


def test_pixels_are_of_their_class_and_differ() -> None:
    features, members = labelled(1)
    found, valid = pixels_of_classes(features, members, torch.tensor([5, 6, 7]), count=4)
    assert found.shape == (3, 4, 4, 2) and valid.shape == (3, 4, 4)
    assert valid.sum(2).tolist() == members.sum(2).clamp_max(4).tolist()
    for b in range(3):
        for k in range(4):
            pixels = found[b, k][valid[b, k]]
            assert set(pixels[:, 0].tolist()) <= {k}
            numbers = pixels[:, 1].tolist()
            assert len(set(numbers)) == len(numbers) and all(b * 11 <= n < b * 11 + 11 for n in numbers)


def test_pixels_follow_each_images_key() -> None:
    features, members = labelled(2)
    keys = torch.tensor([5, 6, 7])
    found, valid = pixels_of_classes(features, members, keys, count=2)
    alone, there = pixels_of_classes(features[1:2], members[1:2], keys[1:2], count=2)
    assert alone[0].equal(found[1]) and there[0].equal(valid[1])
    other, _ = pixels_of_classes(features, members, keys + 10, count=2)
    assert not other.equal(found)
    assert pixels_of_classes(features, members, keys, count=50)[0].shape == (3, 4, 11, 2)


def test_regions_equal_the_loops() -> None:
    _, members = labelled(3)
    features = torch.nn.functional.normalize(maps((3, 5, 11), seed=8)[0], dim=1)
    found, valid = regions_of_classes(features, members)
    assert valid[..., 0].equal(members.any(2))
    for b in range(3):
        for k in range(4):
            own = [features[b, :, i] for i in range(11) if members[b, k, i]]
            if own:
                mean = sum(own) / len(own)
                torch.testing.assert_close(found[b, k, 0], mean / mean.square().sum().sqrt())


OPTIONS: dict[str, Any] = {
    "temperature": 0.1,
    "pool": 1,
    "pixel_memory": 20,
    "region_memory": 5,
    "pixels_per_class": 3,
    "pixel_contrast": 12,
    "region_contrast": 6,
}


def build(**changes: Any) -> CIRKD:
    torch.manual_seed(0)
    return CIRKD(Context(STUDENT, TEACHER, 255, None), **{**OPTIONS, **changes}).eval()


def test_the_queues_hold_what_the_teacher_saw_of_each_class() -> None:
    method, teacher, here = build(), output(TEACHER, 2), target()
    method(output(STUDENT, 1), teacher, here)
    near = here.labels[:, ::8, ::8]
    for name, most in (("memory_pixel", 3), ("memory_region", 1)):
        queue = method.queues[name]
        for k in range(CLASSES):
            expected = sum(min(most, int((image == k).sum())) for image in near)
            assert int(queue.written[k]) == expected > 0
    queue = method.queues["memory_pixel"]
    assert teacher.head_features is not None
    units = torch.nn.functional.normalize(teacher.head_features)
    for k in range(CLASSES):
        own = units.permute(0, 2, 3, 1)[near == k]
        for vector in queue.vectors[k, : int(queue.written[k])]:
            assert (own - vector).abs().sum(1).min() < 1e-6


def test_memory_terms_are_the_functions_on_the_newest_memory() -> None:
    method, student, teacher, here = build(), output(STUDENT, 1), output(TEACHER, 2), target()
    method(student, output(TEACHER, 3), here._replace(keys=here.keys + 7))
    values = method(student, teacher, here)
    for name, count in (("memory_pixel", 12 // 3 + 1), ("memory_region", 6 // 3 + 1)):
        bank = method.queues[name].draw(count, here.keys[:1])
        assert bank.filled.sum() > 6
        expected = memory_relation(
            method.projector(student.head_features),
            teacher.head_features,
            bank.vectors,
            filled=bank.filled,
            taken=here.labels[:, ::8, ::8] != 255,
        )
        torch.testing.assert_close(values[name], expected)


def test_without_memory_terms_the_queues_stay_empty() -> None:
    method = build()
    method.active = frozenset({"mini_batch_pixel"})
    assert set(method(output(STUDENT, 1), output(TEACHER, 2), target())) == {"mini_batch_pixel"}
    assert not any(buffer.any() for buffer in method.queues.buffers())


def test_pooling_is_the_average_before_the_mini_batch_term_alone() -> None:
    student, teacher, here = output(STUDENT, 1), output(TEACHER, 2), target()
    pooled, plain = build(pool=2)(student, teacher, here), build()(student, teacher, here)
    small = [torch.nn.functional.avg_pool2d(x.head_features, 2) for x in (student, teacher)]
    torch.testing.assert_close(pooled["mini_batch_pixel"], mini_batch_pixel(*small))
    assert pooled["memory_pixel"].equal(plain["memory_pixel"])
    with pytest.raises(UserError, match="pool 7 leaves nothing of a map of 6x8"):
        build(pool=7)(student, teacher, here)


def two_steps(rank: int, world: int) -> tuple[CIRKD, list[Tensor]]:
    """Two batches of four images, of which a process holds every `world`-th; gradients of memory terms."""
    torch.manual_seed(0)
    spec = ChannelSpec((4,), 5, 3)
    method = CIRKD(Context(spec, spec, 255, None), **OPTIONS).eval()
    method.active = frozenset({"memory_pixel", "memory_region"})
    for step in range(2):
        draw = torch.Generator().manual_seed(step)
        student, teacher = (torch.randn(4, 5, 4, 4, generator=draw)[rank::world] for _ in range(2))
        labels = torch.randint(0, 3, (4, 4, 4), generator=draw)[rank::world]
        keys = torch.arange(100 * step, 100 * step + 4)[rank::world]
        here = [SegOutput(None, (), x, None) for x in (student, teacher)]
        loss = sum(method(*here, Target(labels, keys)).values())
        loss.backward()
    return method, [p.grad for p in method.parameters() if p.grad is not None]


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    method, gradients = two_steps(rank, 2)
    torch.save([dict(method.queues.named_buffers()), gradients], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_remember_and_learn_as_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    method, expected = two_steps(0, 1)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, buffer in method.queues.named_buffers():
        assert all(torch.allclose(buffers[name], buffer, atol=1e-6) for buffers, _ in halves)
    for i, gradient in enumerate(expected):
        torch.testing.assert_close((halves[0][1][i] + halves[1][1][i]) / 2, gradient, rtol=1e-4, atol=1e-6)


class TestContract(MethodContract):
    name: ClassVar[str] = "cirkd"
    options: ClassVar[dict[str, Any]] = OPTIONS
    falling: ClassVar[tuple[str, ...]] = ("mini_batch_pixel",)
    additive: ClassVar[bool] = False
    label_free: ClassVar[bool] = False
    of_labels: ClassVar[tuple[str, ...]] = ("memory_pixel", "memory_region")

    def test_same_keys_same_values(self) -> None:
        # The memory goes on with every batch: the same values need the same past.
        pasts = []
        for _ in range(2):
            objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
            torch.manual_seed(len(pasts))
            first = objective(student, teacher, target())
            pasts.append([*first.values(), *objective(student, teacher, target()).values()])
        assert all(a.equal(b) for a, b in zip(*pasts, strict=True))

    def test_keys_choose_what_is_remembered(self) -> None:
        banks = []
        for shift in (0, 50):
            objective = self.build()
            objective(
                output(STUDENT, 1),
                output(TEACHER, 2),
                target()._replace(keys=torch.arange(shift, shift + BATCH)),
            )
            banks.append(objective.methods["cirkd"].queues["memory_pixel"].vectors.clone())
        assert not banks[0].equal(banks[1])

    def test_dead_student_cells_have_small_gradients(self) -> None:
        objective = self.build(weights={"mini_batch_pixel": 1.0})
        student = mapped(output(STUDENT, 1), lambda x: (x * (x > 1)).detach().requires_grad_())
        assert student.head_features is not None
        assert (student.head_features == 0).all(1).any()
        objective(student, output(TEACHER, 2), target())["mini_batch_pixel"].backward()
        assert student.head_features.grad is not None and student.head_features.grad.abs().max() < 100
