"""Codes <-> numbers: torch, the exported operators and a numpy closed form give the same."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hourglass.contract.schema import Column, Schema
from training.expansion import Expansion
from training.scaling import Scaling

SCHEMA = Schema(
    (
        Column(name="age"),
        Column(name="colour", type="categorical", categories=("red", "green", "blue")),
        Column(name="member", type="boolean"),
        Column(name="only", type="categorical", categories=("x",)),
    )
)
WIDTHS = [1, 4, 1, 2]
CELLS = st.tuples(
    st.one_of(st.just(np.nan), st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([np.nan, 0, 1, 2, 3]),
    st.sampled_from([np.nan, 0, 1]),
    st.sampled_from([np.nan, 0, 1]),
)
ROWS = st.lists(CELLS, min_size=1, max_size=20).map(lambda rows: np.array(rows, dtype=np.float32))


def one_hot(rows: np.ndarray) -> np.ndarray:
    """The closed form, a column at a time."""
    parts = []
    for column, width in zip(rows.T, WIDTHS, strict=True):
        numbers = column[:, None] if width == 1 else np.eye(width)[np.nan_to_num(column).astype(int)]
        parts.append(np.where(np.isnan(column)[:, None], np.nan, numbers))
    return np.concatenate(parts, axis=1).astype(np.float32)


@given(rows=ROWS)
def test_a_category_is_one_number_for_each_that_it_might_be(rows: np.ndarray):
    np.testing.assert_array_equal(Expansion(SCHEMA)(torch.from_numpy(rows)).numpy(), one_hot(rows))


@given(rows=ROWS)
def test_the_inverse_gives_the_codes_back_but_never_the_unknown_one(rows: np.ndarray):
    rows = np.nan_to_num(rows)
    expected = rows.copy()
    expected[:, [1, 3]] = np.maximum(rows[:, [1, 3]], 1)  # of all-zero known ones the first
    back = Expansion(SCHEMA).inverse(torch.from_numpy(one_hot(rows))).numpy()
    np.testing.assert_array_equal(back, expected)


def test_the_largest_number_is_the_category_and_flags_are_whole():
    numbers = torch.tensor([[7.0, 9.0, 0.2, 0.3, 0.1, 0.4, 5.0, -1.0], [7.0, 0.0, -3.0, -2.0, -1.0, 0.6, 0.0, 0.0]])
    assert Expansion(SCHEMA).inverse(numbers).tolist() == [[7, 2, 0, 1], [7, 3, 1, 1]]


def test_an_answer_is_clear_where_no_rounding_decides_it():
    numbers = torch.tensor([[0.0, 9.0, 0.2, 0.3, 0.1, 0.4, 5.0, -1.0]]).repeat(3, 1)
    numbers[1, 2] = numbers[1, 3] - 1e-5
    numbers[2, 5] = 0.5 + 1e-5
    assert Expansion(SCHEMA).decided(numbers, 1e-4).tolist() == [True, False, False]


def test_sums_are_of_each_column():
    summed = Expansion(SCHEMA).sums(torch.arange(16.0).reshape(2, 8))
    assert summed.tolist() == [[0, 1 + 2 + 3 + 4, 5, 6 + 7], [8, 9 + 10 + 11 + 12, 13, 14 + 15]]


def test_numeric_columns_pass_untouched():
    expansion = Expansion(Schema((Column(name="a"), Column(name="b"))))
    rows = torch.tensor([[1.0, np.nan]])
    assert expansion(rows) is rows
    assert expansion.inverse(rows) is rows


class _There(nn.Module):
    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scaled = self.scaling(rows)
        return scaled, self.scaling.inverse(scaled.nan_to_num()), self.scaling.clipped(rows)


def drawn(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = np.stack([50 + 9 * rng.normal(size=n), rng.integers(0, 4, n), rng.integers(0, 2, n), rng.integers(0, 2, n)])
    rows[rng.random(rows.shape) < 0.2] = np.nan
    return rows.T.astype(np.float32)


def test_onnxruntime_gives_what_torch_gives():
    rows = torch.from_numpy(drawn(50))
    rows[0, 0] = 1e6  # clipped
    module = _There(Scaling.of(rows[1:], SCHEMA, missing=True)).eval()
    stream = io.BytesIO()
    batch = ({0: "batch"},)
    torch.onnx.export(module, (rows[:2],), dynamo=True, dynamic_shapes=batch, verbose=False).save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue())
    for size in (1, 7, 50):
        answers = session.run(None, {session.get_inputs()[0].name: rows[:size].numpy()})
        for answer, expected in zip(answers, module(rows[:size]), strict=True):
            np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-6, atol=1e-6)
    assert module(rows)[2].tolist() == [1] + [0] * 49


def test_each_column_counts_alike_in_scaled_units():
    rows = drawn(4000)
    scaling = Scaling.of(torch.from_numpy(rows), SCHEMA, missing=True)
    scaled = scaling(torch.from_numpy(rows)).double().numpy()
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-5)
    variances = np.add.reduceat(np.nanvar(scaled, axis=0), np.cumsum([0, *WIDTHS[:-1]]))
    np.testing.assert_allclose(variances, 1, rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(scaled), np.repeat(np.isnan(rows), WIDTHS, axis=1))
    whole = np.nan_to_num(rows)
    whole[:, [1, 3]] = np.maximum(whole[:, [1, 3]], 1)
    back = scaling.inverse(scaling(torch.from_numpy(whole))).numpy()
    np.testing.assert_allclose(back[:, 0], whole[:, 0].clip(*_kept(scaling)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(back[:, 1:], whole[:, 1:])


def _kept(scaling: Scaling) -> tuple[float, float]:
    """Between which ages nothing is clipped."""
    mean, spread = scaling.shift[0].item(), scaling.scale[0].item()
    return mean + scaling.low * spread, mean + scaling.high * spread


def test_a_category_that_training_never_saw_is_a_number_of_its_own():
    rows = torch.from_numpy(drawn(100))
    rows[:, 1] = torch.where(rows[:, 1] == 0, 1.0, rows[:, 1])
    scaling = Scaling.of(rows, SCHEMA, missing=True)
    unknown = torch.tensor([[50.0, 0, 1, 1]])
    expanded = scaling.unscaled(scaling(unknown))
    torch.testing.assert_close(expanded[:, 1:5], torch.tensor([[1.0, 0, 0, 0]]), atol=1e-5, rtol=0)
    assert scaling.clipped(unknown).tolist() == [0]
