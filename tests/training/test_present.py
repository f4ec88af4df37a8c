"""Rows with holes: neither favoured nor punished, and explained by what is there."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import binom
from torch import Tensor

from hourglass.contract.manifest import FEATURE_ERROR, MODEL, RECONSTRUCTION, RECONSTRUCTION_ERROR
from tests import tables
from training.config import FitConfig
from training.evaluation.published import Published, open_model
from training.fit import fit
from training.present import OfPresent
from training.progress import Progress
from training.scoring import MeanSquaredError

FRESH = 4_000
_MIX = np.random.default_rng(7).normal(size=(3, 8))


def gaussian(n: int, seed: int) -> np.ndarray:
    """Eight columns of three causes: float32 [n, 8]."""
    rng = np.random.default_rng(seed)
    rows: np.ndarray = (rng.normal(size=(n, 3)) @ _MIX + 0.3 * rng.normal(size=(n, 8))).astype(np.float32)
    return rows


class Learned(NamedTuple):
    """A published model, and fresh whole rows as it takes them, float32 [n, columns]."""

    model: Published
    fresh: np.ndarray


@pytest.fixture(scope="module", params=["correlated numbers", "a mixed table"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("present")
    settings: dict[str, object] = {"epochs": 15, "exported": folder / "exported", "runs": folder / "runs"}
    if request.param == "a mixed table":
        settings |= {"name": "mixed", "ignore": ("id", "state")}
        settings["data"] = str(tables.write(folder / "t.csv", tables.mixed(5_000, 0)))
    else:
        np.save(folder / "t.npy", gaussian(5_000, 0))
        settings |= {"name": "numbers", "data": str(folder / "t.npy")}
    config = FitConfig.model_validate({**settings, "false_alarm_rate": 0.05})
    model = open_model(fit(config, Progress(Console(file=io.StringIO()))))
    if request.param != "a mixed table":
        return Learned(model, gaussian(FRESH, 1))
    schema = model.manifest.row_schema
    assert schema
    return Learned(model, schema.encode(tables.mixed(FRESH, 1), takes_missing=False).rows)


def with_holes(rows: np.ndarray, share: float, seed: int = 2) -> np.ndarray:
    holes = np.random.default_rng(seed).random(rows.shape) < share
    return np.where(holes, np.float32(np.nan), rows)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_rows_with_holes_are_called_anomalies_as_often_as_was_asked(learned: Learned, share: float):
    """Within what chance allows: of the calibration rows (a beta distribution) and of these."""
    calibration = learned.model.manifest.calibration
    scores = learned.model.score(with_holes(learned.fresh, share))
    for rate in (0.02, 0.05, 0.2):
        # By chance calibration rows set the threshold, early-stop rows the scale, and these are drawn.
        parts = (calibration.rows, learned.model.manifest.provenance.rows["early_stop"], FRESH)
        spread = np.sqrt(rate * (1 - rate) * sum(1 / n for n in parts))
        called = (scores > calibration.threshold(rate)).mean()
        assert abs(called - rate) < 3 * spread, (rate, called, spread)


def test_whole_rows_are_called_as_often(learned: Learned):
    calibration = learned.model.manifest.calibration
    called = (learned.model.score(learned.fresh) > calibration.threshold(0.05)).mean()
    low, high = binom.interval(0.9999, calibration.rows, 0.05)
    assert low / calibration.rows < called < high / calibration.rows


def test_a_row_without_any_cell_is_an_ordinary_one(learned: Learned):
    nothing = np.full((1, learned.fresh.shape[1]), np.nan, dtype=np.float32)
    (p_value,) = learned.model.manifest.calibration.p_values(learned.model.score(nothing))
    assert 0.4 < p_value < 0.6


def test_an_anomaly_with_holes_is_still_one(learned: Learned):
    """Where a cell that makes it one is there: shuffled columns do not belong together."""
    rng = np.random.default_rng(3)
    odd = np.stack([rng.permutation(column) for column in learned.fresh.T], axis=1)
    odd = np.where(rng.random(odd.shape) < 0.2, np.float32(np.nan), odd)
    threshold = learned.model.manifest.calibration.threshold(0.05)
    assert (learned.model.score(odd) > threshold).mean() > 0.3


def test_holes_have_no_part_in_the_score(learned: Learned):
    rows = with_holes(learned.fresh, 0.3)
    answers = learned.model.graphs[MODEL].run_all(rows)
    assert (answers[FEATURE_ERROR][np.isnan(rows)] == 0).all()
    assert (answers[FEATURE_ERROR] >= 0).all()
    some = ~np.isnan(rows).all(axis=1)
    assert (answers[FEATURE_ERROR][some].sum(axis=1) > 0).all()
    for name, values in answers.items():
        assert np.isfinite(values).all(), name


def test_the_reconstruction_error_is_the_mean_over_the_cells_that_are_there(learned: Learned):
    rows = with_holes(learned.fresh[:200], 0.3)
    schema = learned.model.manifest.row_schema
    assert schema
    numeric = [j for j, column in enumerate(schema.columns) if column.type == "numeric"]
    only = rows.copy()
    only[:, [j for j in range(rows.shape[1]) if j not in numeric]] = np.nan
    answers = learned.model.graphs[MODEL].run_all(only)
    errors = learned.model.errors(only, answers[RECONSTRUCTION])
    expected = np.where(errors.there, errors.cells, 0).sum(axis=1) / np.maximum(errors.there.sum(axis=1), 1)
    np.testing.assert_allclose(answers[RECONSTRUCTION_ERROR], expected, rtol=1e-3, atol=1e-5)


COLUMNS = torch.tensor([0, 1, 1, 1, 2])


def answer(rows: Tensor) -> dict[str, Tensor]:
    """Of an autoencoder that always gives back a half of what is there, and halves of ones elsewhere."""
    return {RECONSTRUCTION: 0.5 * torch.where(rows.isnan(), 1.0, rows)}


@pytest.fixture
def levelled() -> OfPresent:
    score = OfPresent(MeanSquaredError(), COLUMNS)
    score.level(torch.randn(3_000, 5, generator=torch.Generator().manual_seed(0)), answer)
    return score


def test_a_whole_row_keeps_its_score_to_the_bit(levelled: OfPresent):
    rows = torch.randn(500, 5, generator=torch.Generator().manual_seed(1))
    score, feature_error = levelled(rows, answer(rows))
    expected, of_features = MeanSquaredError()(rows, answer(rows))
    assert score.equal(expected)
    assert feature_error.equal(of_features)


def test_the_score_of_a_row_with_holes_is_that_of_whole_rows_as_rare(levelled: OfPresent):
    """The logarithm, from quantiles where a third of the columns is missing to those of whole rows."""
    rows = torch.tensor([[x, torch.nan, torch.nan, torch.nan, 2 * x] for x in (0.01, 0.3, 0.6, 1.2, 30.0)])
    scores, feature_error = levelled(rows, answer(rows))
    assert feature_error[4].tolist() == [225, 0, 0, 0, 900]
    assert levelled.shares.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    whole, holes = levelled.quantiles[:2].double().numpy()
    logs = (rows[:, [0, 4]] / 2).square().sum(dim=1).div(5).log().double().numpy()
    inside = (logs > holes[0]) & (logs < holes[-1])
    assert inside.tolist() == [False, True, True, True, False]
    expected = np.interp(logs, holes, whole)
    for row, side in ((0, 0), (4, -1)):  # beyond them, by the slope of that side of the median
        expected[row] += (logs[row] - holes[side]) * (whole[side] - whole[2]) / (holes[side] - holes[2])
    np.testing.assert_allclose(scores.log().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_levels_are_the_quantiles_of_masked_rows(levelled: OfPresent):
    rows = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(2))
    gone = torch.randint(3, (20_000, 1), generator=torch.Generator().manual_seed(3)) == COLUMNS
    errors = torch.where(gone, 0, (rows / 2).square()).mean(dim=1).log().numpy()
    expected = np.quantile(errors, (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99))
    np.testing.assert_allclose(levelled.quantiles[1].numpy(), expected, atol=0.25)


def test_levels_come_from_rows_that_are_no_less_whole():
    rows = torch.randn(3_000, 5, generator=torch.Generator().manual_seed(0))
    holes = rows[:2_000].clone()
    holes[1_000:, 4] = torch.nan
    few, whole = OfPresent(MeanSquaredError(), COLUMNS), OfPresent(MeanSquaredError(), COLUMNS)
    few.level(holes, answer)
    whole.level(rows[:1_000], answer)
    torch.testing.assert_close(few.quantiles[0], whole.quantiles[0])


def test_a_score_learns_from_rows_whose_holes_err_as_others_do(monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []
    inner = MeanSquaredError()
    monkeypatch.setattr(inner, "learn", lambda rows, answers, robust: seen.append(rows))
    rows = torch.randn(4_000, 5, generator=torch.Generator().manual_seed(4))
    rows[:3_000, 0] = torch.nan  # mostly missing, and then known no better than elsewhere
    OfPresent(inner, COLUMNS).learn(rows, answer(rows), False)
    (completed,) = seen
    errors = completed[:, 0] - answer(rows)[RECONSTRUCTION][:, 0]
    assert not completed.isnan().any()
    assert errors[:3_000].std().item() == pytest.approx(errors[3_000:].std().item(), rel=0.1)
    assert completed[3_000:].equal(rows[3_000:])
