from __future__ import annotations

import pytest
import torch

from afdcd.errors import UserError
from afdcd.training.distributed import World
from afdcd.training.watch import TermWatch, require_finite


@pytest.fixture
def watch() -> TermWatch:
    return TermWatch(World(0, 1, torch.device("cpu")))


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_since_the_last_reading(watch: TermWatch) -> None:
    assert watch.read() == {}
    watch.add(0, terms(loss=1.0, ce=3.0))
    watch.add(1, terms(loss=2.0, ce=5.0))
    assert watch.read() == {"loss": 1.5, "ce": 4.0}
    watch.add(2, terms(loss=7.0, ce=8.0))
    assert watch.read() == {"loss": 7.0, "ce": 8.0}
    assert watch.read() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_term_is_named(watch: TermWatch, bad: float) -> None:
    watch.add(0, terms(loss=1.0, kd=1.0, ce=1.0))
    watch.add(1, terms(loss=bad, kd=bad, ce=1.0))
    watch.add(2, terms(loss=bad, kd=bad, ce=bad))
    with pytest.raises(UserError, match="term 'kd' became NaN or infinite at iteration 2"):
        watch.read()


def test_finite_weights_pass_and_integers_do_not_matter() -> None:
    require_finite([torch.ones(3), torch.tensor(5)], 1)
    require_finite([torch.tensor(5)], 1)
    require_finite([], 1)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "inf -inf"])
def test_a_bad_number_is_refused(bad: str) -> None:
    with pytest.raises(UserError, match="by iteration 9"):
        require_finite([torch.ones(3), torch.tensor([1.0, *map(float, bad.split())])], 9)


def test_numbers_whose_sum_is_none_are_numbers() -> None:
    """The largest of float32 and of float16, side by side."""
    large = [torch.full((2,), torch.finfo(kind).max, dtype=kind) for kind in (torch.float32, torch.float16)]
    require_finite(large, 1)
    with pytest.raises(UserError, match="by iteration 9"):
        require_finite([*large, torch.tensor([float("nan")])], 9)


class Three(World):
    """This process is the first of three; the others counted `more` and found a bad term at `bad`."""

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        others = [tensor.clone(), tensor.clone()]
        others[0][0] += 3.0
        others[1][1] = torch.tensor([2.0**62, 20_000_001.0], dtype=torch.float64)
        return torch.stack([tensor, *others])


def test_processes_share_means_and_the_first_bad_iteration() -> None:
    """In one exchange; an iteration number beyond float32's whole numbers is told exactly."""
    alone = World(0, 1, torch.device("cpu")).gathered(torch.ones(2, 3))
    assert alone.shape == (1, 2, 3)
    watch = TermWatch(Three(0, 3, torch.device("cpu")))
    watch.add(0, terms(loss=1.0, ce=3.0))
    with pytest.raises(UserError, match="term 'ce' became NaN or infinite at iteration 20000002"):
        watch.read()
    watch._world = type("Good", (Three,), {"gathered": lambda self, x: torch.stack([x, x + 3.0])})(0, 2, None)
    watch.add(1, terms(loss=1.0, ce=3.0))
    assert watch.read() == {"loss": 2.5, "ce": 4.5}
