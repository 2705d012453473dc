from __future__ import annotations

import math

import pytest

from pipeline.studies.statistics import (
    deviation,
    false_exclusions,
    interval,
    mean,
    t_probability,
    t_quantile,
)

# Two-sided, as printed in tables of Student's t (Fisher and Yates; three decimals).
TABLE = {
    0.95: {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 9: 2.262, 10: 2.228, 30: 2.042},
    0.99: {1: 63.657, 2: 9.925, 3: 5.841, 4: 4.604, 7: 3.499, 10: 3.169, 30: 2.750},
    0.999: {2: 31.599, 3: 12.924, 5: 6.869, 20: 3.850},
}


@pytest.mark.parametrize(
    ("level", "degrees", "printed"),
    [(level, degrees, t) for level, row in TABLE.items() for degrees, t in row.items()],
)
def test_quantiles_are_those_of_printed_tables(level: float, degrees: int, printed: float) -> None:
    assert t_quantile(level, degrees) == pytest.approx(printed, abs=6e-4)
    assert t_probability(t_quantile(level, degrees), degrees) == pytest.approx(level, abs=1e-12)


def test_probabilities_known_in_closed_form() -> None:
    assert t_probability(1.0, 1) == pytest.approx(0.5)  # Cauchy
    assert t_probability(3.0, 2) == pytest.approx(3 / math.sqrt(11))
    assert t_probability(0.0, 5) == 0.0


@pytest.mark.parametrize(("level", "degrees"), [(0.95, 0), (0.0, 3), (1.0, 3)])
def test_a_quantile_that_does_not_exist_is_refused(level: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(level, degrees)


def test_mean_deviation_and_interval_by_hand() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))
    assert deviation([1.0]) is None and interval([1.0]) is None
    found = interval([1.0, 2.0, 6.0])
    assert found is not None
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert found == pytest.approx((3.0, 3 - half, 3 + half), rel=1e-6)
    assert found.half_width == pytest.approx(half, rel=1e-6) and not found.excludes_zero


def test_the_committed_three_seed_study_is_reproduced() -> None:
    """results/distillation_regime.md prints -1.9 to +1.0 and -2.7 to +1.9."""
    kd, both = interval([-0.66, 0.21, -0.93]), interval([-0.76, 0.65, -1.06])
    assert kd is not None and both is not None
    assert [round(x, 1) for x in kd[1:]] == [-1.9, 1.0] and [round(x, 1) for x in both[1:]] == [-2.7, 1.9]


@pytest.mark.parametrize(("values", "excludes"), [([1.0, 1.1, 1.2], True), ([-1.0, -1.1, -1.2], True)])
def test_an_interval_on_either_side_excludes_zero(values: list[float], excludes: bool) -> None:
    found = interval(values)
    assert found is not None and found.excludes_zero is excludes


def test_false_exclusions_are_expected_in_proportion() -> None:
    assert false_exclusions(13) == pytest.approx(0.65)
