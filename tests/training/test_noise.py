"""The corruptions do to many features what their definition says, within five standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from training import noise
from training.noise import Damaged

ROWS = torch.rand(400, 10, 25) + 1  # never 0, never an extreme of the noise
LOW, HIGH = torch.tensor(-3.0), torch.tensor(7.0)
COUNT = ROWS.numel()

CORRUPTIONS: dict[str, Callable[[Tensor, float, Generator], Damaged]] = {
    "masking": noise.masking,
    "gaussian": noise.gaussian,
    "salt_and_pepper": lambda rows, share, generator: noise.salt_and_pepper(rows, share, LOW, HIGH, generator),
}


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def within(count: int, share: float) -> bool:
    return abs(count - share * COUNT) <= 5 * math.sqrt(COUNT * share * (1 - share))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_masking_sets_the_share_to_zero_and_leaves_the_rest(share: float):
    damaged, where = noise.masking(ROWS, share, generator())
    masked = damaged == 0
    assert where.equal(masked)
    assert within(int(masked.sum()), share)
    assert damaged[~masked].equal(ROWS[~masked])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_salt_and_pepper_are_equally_likely(share: float):
    damaged, where = noise.salt_and_pepper(ROWS, share, LOW, HIGH, generator())
    pepper, salt = damaged == LOW, damaged == HIGH
    assert where.equal(pepper | salt)
    assert within(int(pepper.sum()), share / 2)
    assert within(int(salt.sum()), share / 2)
    assert damaged[~pepper & ~salt].equal(ROWS[~pepper & ~salt])


def test_salt_and_pepper_use_each_columns_own_extremes():
    low, high = torch.arange(25.0) - 100, torch.arange(25.0) + 100
    damaged = noise.salt_and_pepper(ROWS, 1.0, low, high, generator()).rows
    assert ((damaged == low) | (damaged == high)).all()


@pytest.mark.parametrize("stddev", [0.1, 2.0])
def test_gaussian_noise_has_its_moments(stddev: float):
    added = (noise.gaussian(ROWS, stddev, generator()).rows - ROWS).double()
    assert abs(added.mean()) <= 5 * stddev / math.sqrt(COUNT)
    assert abs(added.std() / stddev - 1) <= 5 / math.sqrt(2 * COUNT)
    assert abs((added / stddev).pow(4).mean() - 3) <= 5 * math.sqrt(96 / COUNT)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_features_are_damaged_independently(name: str):
    damaged = (CORRUPTIONS[name](ROWS, 0.5, generator()).rows != ROWS).float().flatten(1)
    if name == "gaussian":
        damaged = (CORRUPTIONS[name](ROWS, 0.5, generator()).rows - ROWS).sign().flatten(1)
    correlation = torch.corrcoef(damaged.T).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / math.sqrt(len(ROWS))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_all_chance_comes_from_the_generator_and_the_rows_stay(name: str):
    before = ROWS.clone()
    one, same, other = (CORRUPTIONS[name](ROWS, 0.3, generator(seed)).rows for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)
    assert ROWS.equal(before)
