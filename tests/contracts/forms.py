"""How a loss is held against its formula: two random maps, and an own slow form by explicit loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
D = torch.float64


def maps(*shapes: tuple[int, ...], seed: int = 0, relu: bool = False, scale: float = 1.0) -> list[Tensor]:
    """Random float64 maps, with zeros as a ReLU leaves them if asked."""
    draw = torch.Generator().manual_seed(seed)
    values = [scale * torch.randn(shape, generator=draw, dtype=D) for shape in shapes]
    return [value.relu() for value in values] if relu else values


def vectors(*values: tuple[float, ...]) -> Tensor:
    """One image, one row of pixels with these vectors."""
    return torch.tensor(values, dtype=D).mT.reshape(1, len(values[0]), 1, len(values))


def orthogonal(channels: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A random orthogonal transform of a map's channels."""
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.qr(torch.randn(channels, channels, generator=draw, dtype=D))[0]
    return lambda x: torch.einsum("dc,bchw->bdhw", matrix, x)


def permuted_pixels(x: Tensor) -> Tensor:
    """The same reordering of positions for every map of this size."""
    order = torch.randperm(x.shape[-2] * x.shape[-1], generator=torch.Generator().manual_seed(7))
    return x.flatten(2)[..., order].view_as(x)


def assert_equal_forms(
    ours: Loss, naive: Loss, student: Tensor, teacher: Tensor, *, unit: float = 1.0
) -> None:
    """Value and gradient to 1e-10 in float64 and 1e-5 in float32; nothing reaches the teacher.

    `unit` is the loss's own scale: of it float32 may leave 1e-6, where the true value is near zero.
    """
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    value = ours(student, teacher)
    gradient, leaked = torch.autograd.grad(value, (student, teacher), allow_unused=True)
    expected = naive(student, teacher.detach())
    (expected_gradient,) = torch.autograd.grad(expected, student)
    assert value.dtype == D and value.shape == () and leaked is None
    torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-10, atol=1e-12)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10 * largest + 1e-14)
    narrow_student = student.detach().float().requires_grad_()
    narrow = ours(narrow_student, teacher.detach().float())
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6 * unit)
    (narrow_gradient,) = torch.autograd.grad(narrow, narrow_student)
    torch.testing.assert_close(
        narrow_gradient.to(D), expected_gradient, rtol=1e-5, atol=1e-5 * largest + 1e-6 * unit
    )
    assert_wide_under_autocast(ours, student.detach(), teacher.detach())


def assert_wide_under_autocast(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Autocast changes no bit of a value, and half precision ends at the loss's door."""
    for width in (torch.float64, torch.float32, torch.bfloat16):
        s, t = student.to(width), teacher.to(width)
        plain = loss(s, t) if width != torch.bfloat16 else loss(s.float(), t.float())
        with torch.autocast("cpu", torch.bfloat16):
            cast = loss(s, t)
        assert cast.dtype == plain.dtype and cast.equal(plain)


def assert_rounding_near(
    loss: Loss, bound: Callable[[float, float], float], shape: tuple[int, ...], *, scale: float = 1.0
) -> None:
    """What float32 adds where student is near teacher keeps to `bound(value, largest input)`."""
    teacher, noise = maps(shape, shape, seed=5)
    teacher = (scale * teacher).float()
    for size in (0.0, 1e-6, 1e-4, 1e-2):
        student = (teacher.to(D) * (1 + size * noise)).float()
        value = loss(student.to(D), teacher.to(D)).item()
        added = abs(loss(student, teacher).item() - value)
        assert added <= 1e-5 * abs(value) + bound(max(value, 0.0), teacher.abs().max().item()), size


def of_squared_cosines(value: float, largest: float) -> float:
    """The bound of a mean of squared differences of unit vectors or cosines."""
    return 5e-7 * value**0.5 + 1e-13


def assert_gradcheck(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Numerical and analytical gradients agree."""
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.clone().requires_grad_())


def assert_halves_average(loss: Any, *batch: Tensor) -> None:
    """The mean over single images is the value of the batch."""
    images = [loss(*(x[i : i + 1] for x in batch)).item() for i in range(len(batch[0]))]
    assert sum(images) / len(images) == pytest.approx(loss(*batch).item(), rel=1e-12)
