from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from contracts.forms import D, assert_equal_forms, assert_gradcheck, assert_halves_average, maps, orthogonal
from contracts.method import STUDENT, TEACHER, MethodContract, output
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.losses.ka import KA, Decoder, Encoder, affinity, feature_adaptation, reconstruction
from afdcd.losses.method import Context
from afdcd.models.output import ChannelSpec, SegOutput

SHAPES = [(1, 2, 1, 1), (2, 3, 3, 5), (3, 1, 5, 2), (1, 7, 3, 3), (2, 4, 1, 7), (4, 5, 5, 3)]


def cells(features: Tensor) -> list[list[Tensor]]:
    """Vectors of each image's cells."""
    return [list(image.flatten(1).T) for image in features]


def norm(vector: Tensor, order: float) -> Tensor:
    if not vector.any():
        return 0 * vector.sum()  # a root has no derivative there
    return sum((abs(x) ** order for x in vector), torch.zeros((), dtype=vector.dtype)) ** (1 / order)


def unit(vector: Tensor, order: float) -> Tensor:
    return vector / norm(vector, order) if vector.any() else vector


def naive_adaptation(student: Tensor, teacher: Tensor, p: float, q: float) -> Tensor:
    distances = [
        norm(unit(s, q) - unit(t, q), p)
        for ours, theirs in zip(cells(student), cells(teacher), strict=True)
        for s, t in zip(ours, theirs, strict=True)
    ]
    return torch.stack(distances).mean()


def naive_affinity(student: Tensor, teacher: Tensor) -> Tensor:
    rows = []
    for ours, theirs in zip(cells(student), cells(teacher), strict=True):
        u, v = ([unit(x, 2) for x in image] for image in (ours, theirs))
        m = len(u)
        for i in range(m):
            row = torch.stack([(u[i] @ u[j] - v[i] @ v[j]) / m for j in range(m)])
            rows.append(norm(row, 2))
    return torch.stack(rows).sum() / len(student)


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (2, 1), (3, 1.5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_adaptation_equals_the_loops(shape: Any, p: float, q: float) -> None:
    student, teacher = maps(shape, shape, seed=1)
    student[0, :, 0, 0] = 0  # a dead cell
    assert_equal_forms(
        lambda s, t: feature_adaptation(s, t, p=p, q=q),
        lambda s, t: naive_adaptation(s, t, p, q),
        student,
        teacher,
    )


@pytest.mark.parametrize("teacher_channels", [3, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_affinity_equals_the_loops(shape: Any, teacher_channels: int) -> None:
    student, teacher = maps(shape, (shape[0], teacher_channels, *shape[2:]), seed=2)
    teacher[-1, :, 0, 0] = 0
    assert_equal_forms(affinity, naive_affinity, student, teacher)


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_reconstruction_equals_the_loops(shape: Any) -> None:
    restored, features, code = maps(shape, shape, (shape[0], 2, 3, 1), seed=3)
    errors = [
        (a - b) ** 2 for a, b in zip(restored.flatten().tolist(), features.flatten().tolist(), strict=True)
    ]
    expected = sum(errors) / len(errors) + 0.01 * sum(map(abs, code.flatten().tolist())) / shape[0]
    assert reconstruction(restored, features, code, sparsity=0.01).item() == pytest.approx(
        expected, rel=1e-10
    )


def test_hand_values() -> None:
    one = torch.tensor([1.0, 0.0], dtype=D).view(1, 2, 1, 1)
    other = torch.tensor([0.0, 1.0], dtype=D).view(1, 2, 1, 1)
    assert feature_adaptation(one, other).item() == pytest.approx(2, abs=1e-9)
    assert feature_adaptation(one, other, p=2).item() == pytest.approx(math.sqrt(2), abs=1e-9)
    assert feature_adaptation(2 * one, 7 * one).item() == 0
    equal = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=D).view(1, 2, 1, 2)
    orthogonal = torch.eye(2, dtype=D).view(1, 2, 1, 2)
    assert affinity(equal, orthogonal).item() == pytest.approx(1.0, abs=1e-9)


def test_invariances() -> None:
    student, teacher = maps((2, 4, 3, 5), (2, 4, 3, 5), seed=5)
    scale = 0.2 + torch.rand(2, 1, 3, 5, dtype=D)
    near = feature_adaptation(student, teacher)
    torch.testing.assert_close(feature_adaptation(student * scale, teacher / scale), near)
    assert not torch.isclose(feature_adaptation(orthogonal(4)(student), teacher), near, rtol=1e-3)
    alike = affinity(student, teacher)
    torch.testing.assert_close(affinity(student * scale, teacher / scale), alike)
    torch.testing.assert_close(affinity(orthogonal(4)(student), orthogonal(4, 1)(teacher)), alike)
    assert not torch.isclose(affinity(student + 1, teacher), alike, rtol=1e-3)


@pytest.mark.parametrize("loss", [feature_adaptation, affinity])
def test_gradcheck_and_halves(loss: Any) -> None:
    student, teacher = maps((2, 3, 2, 3), (2, 3, 2, 3), seed=6)
    assert_gradcheck(loss, student, teacher)
    assert_halves_average(loss, student, teacher)


@pytest.mark.parametrize("loss", [feature_adaptation, affinity])
def test_maps_that_differ_are_refused_with_both_shapes(loss: Any) -> None:
    for shape in ((2, 3, 2, 4), (1, 3, 2, 3)):
        with pytest.raises(UserError, match=r"\(2, 3, 2, 3\), the teacher's \(") as error:
            loss(*maps((2, 3, 2, 3), shape))
        assert str(shape) in str(error.value)
    with pytest.raises(UserError, match="channels"):
        feature_adaptation(*maps((2, 3, 2, 3), (2, 4, 2, 3)))


@pytest.mark.parametrize("closeness", [0.0, 1e-4, 1e-2])
def test_near_the_teacher_float32_keeps_the_stated_rounding(closeness: float) -> None:
    teacher, noise = (x.float() for x in maps((2, 6, 3, 5), (2, 6, 3, 5), seed=9))
    student = 3 * teacher + closeness * noise
    for loss, rounding in ((feature_adaptation, 6e-7), (affinity, 1e-7 * 15**0.5)):
        expected = loss(student.double(), teacher.double()).item()
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6, abs=rounding)


def test_a_perfect_student_costs_nothing_and_its_gradient_is_finite() -> None:
    (teacher,) = maps((2, 3, 4, 3), seed=7)
    for p in (1, 2):
        student = teacher.clone().requires_grad_()
        value = feature_adaptation(student, teacher, p=p) + affinity(student, teacher)
        value.backward()
        assert value.item() == 0 and student.grad is not None and student.grad.isfinite().all()


def test_norms_below_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"p 0\.5 and q 2"):
        feature_adaptation(*maps((1, 2, 3, 3), (1, 2, 3, 3)), p=0.5)
    with pytest.raises(UserError, match=r"p 1 and q 0\.9"):
        feature_adaptation(*maps((1, 2, 3, 3), (1, 2, 3, 3)), q=0.9)


@pytest.mark.parametrize(("size", "stride"), [((5, 7), 2), ((6, 8), 2), ((3, 5), 1)])
def test_encoder_and_decoder_are_inverse_in_size(size: tuple[int, int], stride: int) -> None:
    features = torch.randn(2, 6, *size)
    code = Encoder(6, stride)(features)
    assert code.shape == (2, 3, -(-size[0] // stride), -(-size[1] // stride))
    assert Decoder(6, stride)(code, list(size)).shape == features.shape


class Teacher(nn.Module):
    """A frozen network whose features are two channels of structure in six."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.tensor([[1.0, 0, 1, 0, 2, 1], [0, 1, 1, 2, 0, 1], [0] * 6]).T)

    def forward(self, images: Tensor, *, stop: str) -> SegOutput:
        assert stop == "features" and not torch.is_grad_enabled()
        return SegOutput(None, (torch.einsum("dc,bchw->bdhw", self.mix, images / 255),), None, None)


def images() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)
    while True:
        yield 255 * torch.rand(4, 3, 6, 6, generator=draw)


OPTIONS: dict[str, Any] = {
    "p": 1,
    "q": 2,
    "stride": 1,
    "sparsity": 1e-7,
    "first_phase_iterations": 3,
    "first_phase_lr": 0.1,
}


def test_the_first_phase_lowers_what_it_minimises(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def recorded(*arguments: Any, **options: Any) -> Tensor:
        assert options == {"sparsity": 1e-7}
        value = reconstruction(*arguments, **options)
        seen.append(value.item())
        return value

    monkeypatch.setattr("afdcd.losses.ka.reconstruction", recorded)
    torch.manual_seed(0)
    spec = ChannelSpec((6,), 4, 3)
    KA(Context(spec, spec, 255, None), **{**OPTIONS, "first_phase_iterations": 60}).prepare(
        Teacher(), images()
    )
    assert len(seen) == 60 and sum(seen[-5:]) < 0.35 * sum(seen[:5]), seen


def test_the_first_phase_is_the_stated_descent() -> None:
    spec, options = ChannelSpec((6,), 4, 3), {**OPTIONS, "sparsity": 0.01}
    torch.manual_seed(0)
    method = KA(Context(spec, spec, 255, None), **options)
    encoder = Encoder(6, 1)
    encoder.load_state_dict(method.encoder.state_dict())
    torch.manual_seed(1)
    method.prepare(Teacher(), images())
    torch.manual_seed(1)
    decoder = Decoder(6, 1)
    learnt = [*encoder.parameters(), *decoder.parameters()]
    speeds = [torch.zeros_like(p) for p in learnt]
    for _, given in zip(range(3), images(), strict=False):
        with torch.no_grad():
            features = Teacher()(given, stop="features").features[-1]
        code = encoder(features)
        loss = reconstruction(decoder(code, [6, 6]), features, code, sparsity=0.01)
        for parameter, speed, gradient in zip(learnt, speeds, torch.autograd.grad(loss, learnt), strict=True):
            speed.mul_(0.9).add_(gradient + 1e-4 * parameter.detach())
            parameter.data.sub_(0.1 * speed)
    assert not method.encoder.training
    torch.testing.assert_close(
        dict(method.encoder.named_parameters()), dict(encoder.named_parameters()), rtol=1e-5, atol=1e-7
    )


def test_the_first_phase_touches_the_encoder_alone_and_freezes_it() -> None:
    torch.manual_seed(0)
    spec = ChannelSpec((6,), 4, 3)
    method = KA(Context(spec, spec, 255, None), **OPTIONS)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.prepare(Teacher(), images())
    changed = {name for name, value in method.state_dict().items() if not value.equal(before[name])}
    assert changed and all(name.startswith("encoder.") for name in changed)
    assert not any(p.requires_grad for p in method.encoder.parameters())
    statistics = method.train().encoder[1].running_mean.clone()
    method.encoder(torch.randn(2, 6, 4, 4))
    assert method.encoder[1].running_mean.equal(statistics)


class TestContract(MethodContract):
    name: ClassVar[str] = "ka"
    options: ClassVar[dict[str, Any]] = OPTIONS
    falling: ClassVar[tuple[str, ...]] = ("feature_adaptation", "affinity")
    additive: ClassVar[bool] = False  # the adapter's BatchNorm sees the whole batch

    def test_each_term_is_its_function_of_its_own_adapter(self) -> None:
        torch.manual_seed(0)
        method = KA(Context(STUDENT, TEACHER, 255, None), **{**OPTIONS, "p": 2.0, "q": 3.0})
        student, teacher = output(STUDENT, 1), output(TEACHER, 2)
        features, code = student.features[-1], method.encoder(teacher.features[-1])
        assert [type(layer) for layer in method.cells] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        terms = method(student, teacher, None)
        expected = {
            "feature_adaptation": feature_adaptation(method.cells(features), code, p=2.0, q=3.0),
            "affinity": affinity(method.relations(features), code),
        }
        torch.testing.assert_close(terms, expected)

    def test_a_strided_code_meets_a_coarser_student(self) -> None:
        method = KA(Context(STUDENT, TEACHER, 255, None), **{**OPTIONS, "stride": 2})
        student = SegOutput(None, (torch.randn(2, 6, 3, 4),), None, None)
        teacher = SegOutput(None, (torch.randn(2, 8, 5, 7),), None, None)
        assert all(value.isfinite() for value in method(student, teacher, None).values())
