from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from contracts.forms import D, maps
from contracts.method import CLASSES, STUDENT, TEACHER, output, target
from torch import Tensor, nn

from afdcd.losses.cirkd import CIRKD, memory_relation, pixels_of_classes, regions_of_classes
from afdcd.losses.method import Context, Target
from afdcd.models.output import ChannelSpec, SegOutput
from afdcd.training.distributed import World

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


def test_the_queues_hold_what_the_teacher_saw_of_each_class() -> None:
    method, teacher, here = build(pixels_per_class=2), output(TEACHER, 2), target()
    method(output(STUDENT, 1), teacher, here)
    near = here.labels[:, ::8, ::8]
    for name, most in (("memory_pixel", 2), ("memory_region", 1)):
        queue = method.queues[name]
        for k in range(CLASSES):
            expected = sum(min(most, int((image == k).sum())) for image in near)
            assert int(queue.written[k]) == expected > 0
    assert [queue.size for queue in method.queues.values()] == [20, 5]
    queue = method.queues["memory_pixel"]
    assert teacher.head_features is not None
    units = torch.nn.functional.normalize(teacher.head_features)
    for k in range(CLASSES):
        own = units.permute(0, 2, 3, 1)[near == k]
        for vector in queue.vectors[k, : int(queue.written[k])]:
            assert (own - vector).abs().sum(1).min() < 1e-6


def test_memory_terms_are_the_functions_on_the_newest_memory() -> None:
    method, student, teacher, here = build(temperature=0.3), output(STUDENT, 1), output(TEACHER, 2), target()
    method(student, output(TEACHER, 3), here._replace(keys=here.keys + 7))
    values = method(student, teacher, here)
    for name, count in (("memory_pixel", 12 // 3 + 1), ("memory_region", 6 // 3 + 1)):
        bank = method.queues[name].draw(count, here.keys[:1])
        assert bank.filled.sum() > 6
        expected = memory_relation(
            method.projector(student.head_features),
            teacher.head_features,
            bank.vectors,
            temperature=0.3,
            filled=bank.filled,
            taken=here.labels[:, ::8, ::8] != 255,
        )
        torch.testing.assert_close(values[name], expected)


def test_ignored_cells_are_neither_remembered_nor_compared() -> None:
    student, teacher, here = output(STUDENT, 1), output(TEACHER, 2), target()
    expected, other = build(), build()
    other.ignore_index = 1  # a class's own number, then its labels elsewhere
    moved = here.labels.masked_fill(here.labels == 1, 255)
    values = expected(student, teacher, here._replace(labels=moved))
    found = other(student, teacher, here._replace(labels=here.labels.masked_fill(here.labels == 255, 1)))
    assert all(found[name].equal(value) for name, value in values.items())
    for name in ("memory_pixel", "memory_region"):
        assert other.queues[name].written[1] == 0 < other.queues[name].written[0]


def test_without_memory_terms_the_queues_stay_empty() -> None:
    method = build()
    method.active = frozenset({"mini_batch_pixel"})
    assert set(method(output(STUDENT, 1), output(TEACHER, 2), target())) == {"mini_batch_pixel"}
    assert not any(buffer.any() for buffer in method.queues.buffers())


def test_a_checkpoint_holds_the_memory() -> None:
    method, student, teacher, here = build(), output(STUDENT, 1), output(TEACHER, 2), target()
    method(student, output(TEACHER, 3), here)
    saved = {name: value.clone() for name, value in method.state_dict().items()}
    for name in ("memory_pixel", "memory_region"):
        assert saved[f"queues.{name}.vectors"].any() and saved[f"queues.{name}.written"].any()
    later = here._replace(keys=here.keys + 7)
    expected = method(student, teacher, later)
    again = build()
    fresh = again(student, teacher, later)
    again.load_state_dict(saved)
    resumed = again(student, teacher, later)
    for name, value in expected.items():
        assert resumed[name].equal(value)
        assert fresh[name].equal(value) == (name == "mini_batch_pixel")


def two_steps(rank: int, world: int) -> tuple[nn.Module, CIRKD, list[Tensor]]:
    """Two batches of four images, of which a process holds every `world`-th; gradients of memory terms."""
    torch.manual_seed(0)
    spec = ChannelSpec((4,), 5, 3)
    method = CIRKD(Context(spec, spec, 255, None), **OPTIONS).eval()
    method.active = frozenset({"memory_pixel", "memory_region"})
    wrapped = World(rank, world, torch.device("cpu")).wrap(method)
    for step in range(2):
        draw = torch.Generator().manual_seed(step)
        student, teacher = (torch.randn(4, 5, 4, 4, generator=draw)[rank::world] for _ in range(2))
        labels = torch.randint(0, 3, (4, 4, 4), generator=draw)[rank::world]
        keys = torch.arange(100 * step, 100 * step + 4)[rank::world]
        here = [SegOutput(None, (), x, None) for x in (student, teacher)]
        loss = sum(wrapped(*here, Target(labels, keys)).values())
        loss.backward()
    return wrapped, method, [p.grad for p in method.parameters() if p.grad is not None]


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    wrapped, method, gradients = two_steps(rank, 2)
    sent = sorted(buffer.shape for buffer in wrapped.modules_buffers)
    torch.save([dict(method.queues.named_buffers()), gradients, sent], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_remember_and_learn_as_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    _, method, expected = two_steps(0, 1)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, buffer in method.queues.named_buffers():
        assert all(torch.allclose(half[0][name], buffer, atol=1e-6) for half in halves)
        assert buffer.any() and halves[0][0][name].equal(halves[1][0][name]), "nobody sends the memory around"
    projector = sorted(buffer.shape for buffer in method.projector.buffers())
    assert all(sent == projector for _, _, sent in halves)
    for _, gradients, _ in halves:
        for gradient, whole in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)
