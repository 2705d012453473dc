from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from afdcd.errors import UserError
from afdcd.losses.inputs import full_precision, require_equal_grids, unit_vectors


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_unit_vectors_and_their_gradients(order: float) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    for dim in (1, 2):
        found = unit_vectors(vectors, dim=dim, order=order)
        torch.testing.assert_close(found, F.normalize(vectors, order, dim))
    assert torch.autograd.gradcheck(lambda x: unit_vectors(x, dim=2, order=order), vectors)


def test_a_zero_vector_stays_zero_and_its_gradient_small() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    result = unit_vectors(vectors)
    result[:, 0].sum().backward()
    assert result.tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert vectors.grad is not None and vectors.grad.abs().max() <= 1


def test_autocast_is_off_within_and_on_again_after() -> None:
    one = torch.eye(2)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(one):
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16


def test_grids_may_differ_in_channels_only() -> None:
    maps = torch.zeros(2, 3, 4, 5)
    require_equal_grids(maps, torch.zeros(2, 7, 4, 5), "a loss")
    for other in ((2, 3, 4, 6), (2, 3, 5, 5), (1, 3, 4, 5)):
        with pytest.raises(UserError, match=r"a loss: .*\(2, 3, 4, 5\), the teacher's \(\d, 3"):
            require_equal_grids(maps, torch.zeros(other), "a loss")
