from __future__ import annotations

import torch

from afdcd.losses.randomness import uniform

MASK = 2**64 - 1


def mix(x: int) -> int:
    """SplitMix64's output function in Python's unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_published_first_output_of_seed_zero() -> None:
    # Guards the reference above: SplitMix64 seeded with 0 begins with this number.
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_equals_the_hash_in_unbounded_integers() -> None:
    golden = 0x9E3779B97F4A7C15
    keys = [0, 1, 2**62 + 12345, -1, -(2**63)]
    drawn = uniform(torch.tensor(keys), 7)
    for row, key in zip(drawn, keys, strict=True):
        state = mix((key * golden) & MASK)
        expected = [(mix((state + i * golden) & MASK) >> 40) * 2.0**-24 for i in range(1, 8)]
        assert row.tolist() == expected


def test_a_sample_draws_the_same_in_any_batch() -> None:
    keys = torch.tensor([5, 900, -3, 7])
    whole = uniform(keys, 50)
    assert whole[2:].equal(uniform(keys[2:], 50))
    assert whole[1, :20].equal(uniform(keys[1:2], 20)[0])


def test_is_uniform_and_independent_over_neighbouring_keys_and_cells() -> None:
    drawn = uniform(torch.arange(1000), 500).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, 64, 0, 1)
    chi_square = ((counts - 500_000 / 64) ** 2 / (500_000 / 64)).sum()
    assert 30 < chi_square < 110  # 63 degrees of freedom: mean 63, sd 11.2
    centred = drawn - 0.5
    for one, other in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        correlation = (one * other).mean() * 12
        assert abs(correlation) < 4 / 500_000**0.5
