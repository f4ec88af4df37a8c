from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hourglass.contract.schema import Column, Schema
from training.autoencoder import Clock, registered
from training.config import FitConfig
from training.errors import DataError
from training.fit import build
from training.scaling import Scaling
from training.windows import MOST_WINDOWS, Series, blocks, learned_stride, served_stride

import torch  # isort: skip  (training sets how OpenMP waits, before torch is loaded)

SHARES = (0.7, 0.1)


def series(rows: int, gaps: list[int] | None = None) -> Series:
    values = np.arange(rows, dtype=np.float32)[:, None] * np.ones((1, 2), dtype=np.float32)
    return Series(values, np.array([0, *(gaps or [])]))


@given(
    st.integers(1, 400),
    st.lists(st.integers(1, 399), max_size=4, unique=True).map(sorted),
    st.integers(2, 20),
    st.integers(1, 25),
)
def test_no_row_is_within_a_window_of_two_splits(rows: int, gaps: list[int], length: int, stride: int) -> None:
    whole = series(rows, [gap for gap in gaps if gap < rows])
    starts = whole.starts(length, stride)
    assume(len(starts) >= 10)
    try:
        parts = blocks(starts, length, SHARES, "x.csv")
    except DataError:
        return
    chosen = [starts[part] for part in parts]
    assert all(len(part) for part in chosen)
    for before, after in pairwise(chosen):
        assert after[0] - (before[-1] + length - 1) > length
    if len(whole.pieces) == 1:
        total = sum(map(len, chosen))
        assert [len(part) / total for part in chosen] == pytest.approx([0.7, 0.1, 0.2], abs=1.5 / total)


@given(st.integers(2, 40), st.integers(1, 50))
def test_a_series_that_is_too_short_says_how_long_it_has_to_be(length: int, stride: int) -> None:
    with pytest.raises(DataError, match=r"x\.csv: .* give at least ([\d,]+) rows without a gap") as error:
        blocks(series(length + 3 * stride).starts(length, stride), length, SHARES, "x.csv")
    needed = int(str(error.value).partition("at least ")[2].split(" ")[0].replace(",", ""))
    assert all(
        part.stop > part.start for part in blocks(series(needed).starts(length, stride), length, SHARES, "x.csv")
    )
    with pytest.raises(DataError):
        blocks(series(needed - 1).starts(length, stride), length, SHARES, "x.csv")


def test_windows_are_the_rows_and_span_no_gap() -> None:
    whole = series(20, [7])
    starts = whole.starts(4, 2)
    assert starts.tolist() == [0, 2, 7, 9, 11, 13, 15]
    windows = whole.windows(starts, 4)
    assert windows.shape == (7, 4, 2)
    assert windows[:, :, 0].tolist() == [[start + i for i in range(4)] for start in starts]


def test_gaps_and_irregular_steps_are_found_and_said() -> None:
    seconds = np.concatenate([np.arange(50.0), 60.0 + np.arange(50), [110.0, 112.0, 112.0]]) * 60
    found = Series.of(np.zeros((len(seconds), 1), dtype=np.float32), seconds, 16)
    assert found.step_seconds == 60
    assert found.pieces.tolist() == [0, 50]
    assert found.findings == (
        "there is 1 gap of more than 2 min, the longest of 11 min: no window spans one",
        "2 of 102 steps from a row to the next are not the usual 1 min, and 1 of them are 0",
    )
    assert not Series.of(np.zeros((9, 1), dtype=np.float32), np.arange(9.0), 4).findings


def test_without_times_rows_follow_one_another() -> None:
    found = Series.of(np.zeros((9, 1), dtype=np.float32), None, 4)
    assert (found.pieces.tolist(), found.step_seconds, found.findings) == ([0], None, ())


def test_short_series_are_cut_at_every_row_and_long_ones_as_often_as_is_enough() -> None:
    assert learned_stride(series(5_000), 32) == 1
    assert learned_stride(series(3 * MOST_WINDOWS), 32) == 3
    assert [served_stride(length) for length in (2, 32)] == [1, 8]


@pytest.mark.parametrize("variant", [name for name, kind in registered().items() if "conv1d" in kind.networks])
def test_every_variant_with_networks_to_choose_from_takes_windows(variant: str) -> None:
    config = FitConfig.model_validate(
        {"data": "x", "name": "x", "variant": variant, "network": "conv1d", "window": 7, "hidden": (4,)}
    )
    schema = Schema((Column(name="flow"), Column(name="heat")))
    torch.manual_seed(0)
    model = build(config, (7, 2), schema)
    windows = torch.randn(12, 7, 2)
    model.prepare(windows, torch.Generator().manual_seed(0))
    parts = model.loss(windows, Clock(0, 0.99), torch.Generator().manual_seed(0))
    torch.autograd.backward(list(parts.values()))
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    assert model.eval()(windows)["reconstruction"].shape == windows.shape


def test_channels_are_scaled_each_by_itself() -> None:
    windows = torch.randn(50, 7, 2) * torch.tensor([1.0, 100.0]) + torch.tensor([0.0, 5_000.0])
    scaling = Scaling.of(windows, Schema((Column(name="flow"), Column(name="heat"))))
    scaled = scaling(windows)
    torch.testing.assert_close(scaled.mean(dim=(0, 1)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 1), correction=0), torch.ones(2))
    torch.testing.assert_close(scaling.inverse(scaled), windows)
