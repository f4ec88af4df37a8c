"""The benchmark's own arithmetic: how it splits, what chance allows, what its tables conclude."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest

from benchmarks import anomaly_data, anomaly_page, anomaly_records
from benchmarks.anomaly import SEEDS
from benchmarks.anomaly_data import PROTOCOLS, Source, Split
from benchmarks.anomaly_methods import Cost, Fitted, Measured, methods
from benchmarks.anomaly_promises import interval, promises
from benchmarks.anomaly_records import Record
from hourglass.contract.calibration import Calibration


def source(normals: int, anomalies: int, columns: int = 3) -> Source:
    """Row i has i in its first column; the last is the label. Sorted by class, as some files are."""
    rows = np.random.default_rng(0).normal(5, 3, (normals + anomalies, columns))
    rows[:, 0] = np.arange(len(rows))
    rows[:, -1] = np.arange(len(rows)) >= normals
    return Source("made", rows, rows[:, -1] == 1, "0" * 64)


def test_clean_trains_on_half_of_the_normal_rows():
    split = anomaly_data.split(source(200, 30), "clean", 0)
    assert len(split.train) == 100
    assert (len(split.test), split.anomalous.sum()) == (130, 30)
    assert split.train.shape[1] == 2, "a column that is constant in training is left out"
    rows = np.concatenate([split.train, split.test])
    assert len(np.unique(rows[:, 0])) == 230, "every row is in one part"


def test_contaminated_keeps_the_share_of_anomalies():
    split = anomaly_data.split(source(200, 30), "contaminated", 0)
    assert len(split.train) == 140 + 21
    assert (len(split.test), split.anomalous.sum()) == (69, 9)
    labels = split.train[:, -1] > 0
    assert labels.sum() == 21
    assert np.diff(labels.astype(int)).any(), "in no order that tells the label"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_split_is_standardised_by_its_training_rows_and_drawn_by_the_seed(protocol):
    data = source(25_000, 500)
    split, again, other = (anomaly_data.split(data, protocol, seed) for seed in (1, 1, 2))
    assert split.train.dtype == split.test.dtype == np.float32
    np.testing.assert_allclose(split.train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(split.train.std(axis=0), 1, atol=1e-5)
    assert len(split.train) + len(split.test) <= anomaly_data.MOST_ROWS
    np.testing.assert_array_equal(split.train, again.train)
    assert not np.array_equal(split.train[:, 0], other.train[:, 0])


@pytest.mark.parametrize(("calibration_rows", "fresh_rows", "rate"), [(99, 200, 0.01), (150, 60, 0.05)])
def test_the_interval_holds_95_percent_of_simulated_alarms(calibration_rows, fresh_rows, rate):
    rng = np.random.default_rng(0)
    low, high = interval(calibration_rows, fresh_rows, rate)
    alarms = []
    for _ in range(4_000):
        calibration = Calibration.from_scores(rng.random(calibration_rows), rate)
        alarms.append((rng.random(fresh_rows) > calibration.threshold(rate)).sum())
    below, above = np.mean(np.array(alarms) < low), np.mean(np.array(alarms) > high)
    # Of a discrete distribution each end leaves out at most 2.5 %, and one step nearer more than that.
    assert below <= 0.025 + 0.01
    assert above <= 0.025 + 0.01
    assert np.mean(np.array(alarms) >= high) > 0.025 - 0.01


def test_promises_on_scores_that_keep_them_and_on_scores_that_do_not():
    rng = np.random.default_rng(0)
    split = anomaly_data.split(source(4_000, 100), "clean", 0)
    calibration = Calibration.from_scores(rng.normal(size=400), 0.05)

    def promised(shift: float):
        scores = np.where(split.anomalous, 10.0, shift + rng.normal(size=len(split.test)))
        fitted = Fitted(lambda rows: scores.copy(), calibration)
        cost = Cost(fit_seconds=0, fit_processor_seconds=0, score_seconds=0, threads=1, versions={})
        return promises(Measured(scores, fitted, cost), split, 0)

    kept, broken = promised(0.0), promised(1.0)
    low, high = interval(400, 2_000, 0.05)
    assert low <= kept.alarms["0.05"] <= high < broken.alarms["0.05"]
    assert kept.ks_p_value > 0.01 > broken.ks_p_value
    assert kept.discoveries.false_share < 0.2 < broken.discoveries.false_share
    assert kept.discoveries.found_share == 1
    assert kept.repeats_identical


def test_refused_rates_are_recorded_as_such():
    split = anomaly_data.split(source(40, 5), "clean", 0)
    scores = np.random.default_rng(0).random(len(split.test))
    fitted = Fitted(lambda rows: scores, Calibration.from_scores(np.arange(20.0), 0.05))
    cost = Cost(fit_seconds=0, fit_processor_seconds=0, score_seconds=0, threads=1, versions={})
    alarms = promises(Measured(scores, fitted, cost), split, 0).alarms
    assert alarms["0.05"] is not None
    assert alarms["0.01"] is None


def record(method: str, seed: int, auroc: float, **others: object) -> Record:
    values = {
        "protocol": "clean",
        "set": "made",
        "seed": seed,
        "method": method,
        "settings": {},
        "data_sha256": "0" * 64,
        "auroc": auroc,
        "auprc": 0.5,
        "train_rows": 10,
        "test_rows": 10,
        "columns": 2,
        "fit_seconds": 2.0 if method == "hourglass" else 1.0,
        "fit_processor_seconds": 1.0,
        "score_seconds": 1.0,
        "threads": 1,
        "processor": "made up",
        "versions": {},
        "commit": "none",
        "run": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Record.model_validate({**values, **others})


def test_differences_are_paired_and_held_against_the_bar():
    ours = [record("hourglass", seed, auroc) for seed, auroc in enumerate([0.90, 0.80, 0.70])]
    theirs = [record("PyOD AutoEncoder", seed, auroc) for seed, auroc in enumerate([0.88, 0.77, 0.69])]
    (row,) = anomaly_page._differences(ours, [*ours, *theirs]).rows
    # +2, +3, +1 points: mean 2, standard deviation 1, over the root of 3.
    assert row[:5] == ["clean", "PyOD AutoEncoder", "3", "+2.00", "0.58"]
    assert row[6:] == ["≥ +2", "reached", "≥ +4, not yet"]
    worse = [*ours[:2], record("hourglass", 2, 0.69)]
    assert anomaly_page._differences(worse, [*worse, *theirs]).missed


def test_the_fit_times_are_of_those_who_took_turns():
    ours, theirs = record("hourglass", 0, 0.9), record("PyOD AutoEncoder", 0, 0.9)
    table = anomaly_page._fit_ratio([ours], [ours, theirs])
    assert table.rows[0][:4] == ["clean", "trained", "1", "2.00 (2.00 – 2.00)"]
    assert table.missed
    another_run = theirs.model_copy(update={"run": datetime(2026, 1, 2, tzinfo=UTC)})
    assert not anomaly_page._fit_ratio([ours], [ours, another_run]).rows


def test_the_bar_is_for_training_and_publishing_is_shown_beside_it():
    ours = record("hourglass", 0, 0.9, publish_seconds=1.25, publish_processor_seconds=0.5)
    theirs = record("PyOD AutoEncoder", 0, 0.9)
    trained, published = anomaly_page._fit_ratio([ours], [ours, theirs]).rows
    assert trained[3:] == ["0.75 (0.75 – 0.75)", "0.50 (0.50 – 0.50)", "≤ 1", "reached"]
    assert published[1:] == ["published", "1", "2.00 (2.00 – 2.00)", "1.00 (1.00 – 1.00)", "", ""]
    times = {row[0]: row[3:] for row in anomaly_page._times([ours, theirs]).rows}
    assert times == {
        "hourglass": ["0.8", "0.5", "2.0", "1.0", "1.0"],
        "PyOD AutoEncoder": ["1.0", "1.0", "1.0", "1.0", "1.0"],
    }


def test_publishing_is_a_part_of_the_time_to_fit():
    train = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    ours = methods(ExitStack())["hourglass"]
    cost = ours.measure(Split(train, train[:5], np.zeros(5, bool)), "clean", 0).cost
    assert 0.1 < cost.publish_seconds < cost.fit_seconds
    assert 0.1 < cost.publish_processor_seconds < cost.fit_processor_seconds


def test_a_record_takes_the_place_of_the_one_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(anomaly_records, "FOLDER", tmp_path)
    for kept in [record("PyOD KNN", 0, 0.5), record("PyOD KNN", 1, 0.6), record("PyOD KNN", 0, 0.7)]:
        anomaly_records.write(kept)
    assert [(kept.seed, kept.auroc) for kept in anomaly_records.read(["PyOD KNN"])] == [(0, 0.7), (1, 0.6)]


def test_the_committed_records_of_the_peers_are_whole():
    records = anomaly_records.read(anomaly_page.PEERS)
    sets = {kept.set for kept in records}
    keys = {(kept.method, *kept.key) for kept in records}
    assert keys == set(product(anomaly_page.PEERS, PROTOCOLS, sets, SEEDS))
