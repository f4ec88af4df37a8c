from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hourglass.contract.drift import FALSE_ALARM_RATE, Distribution, Drift, ScoreCounts, Sketch
from hourglass.contract.manifest import Window
from hourglass.contract.schema import Column, Schema

WINDOW_ROWS = 2000
EMPTY = np.zeros(0, dtype=np.float32)


def sketch_of(rows: np.ndarray, **settings: object) -> Sketch:
    """With the mean square as the score, and numbers beyond ±3 clipped."""
    return Sketch.of(rows, *scores_of(rows), **settings)  # type: ignore[arg-type]


def scores_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = rows.reshape(len(rows), -1)
    return np.nanmean(flat**2, axis=1), (np.abs(flat) > 3).sum(axis=1)


def scored(sketch: Sketch, rows: np.ndarray) -> ScoreCounts:
    scores, clipped = scores_of(rows)
    return sketch.count_scores(scores, np.full(len(rows), 0.5), clipped)


def drift_of(sketch: Sketch, rows: np.ndarray) -> Drift:
    return compare(sketch, rows, scored(sketch, rows))


def compare(sketch: Sketch, rows: np.ndarray, scores: ScoreCounts, traffic: int | None = None) -> Drift:
    return sketch.compare(sketch.count(rows), scores, len(rows) if traffic is None else traffic)


CELLS = st.lists(
    st.one_of(st.floats(-5, 5, width=32), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=60
).map(lambda values: np.array(values, dtype=np.float32).reshape(-1, 1))


@given(before=CELLS, now=CELLS)
def test_shares_are_the_definition(before: np.ndarray, now: np.ndarray) -> None:
    kept = Distribution.of(before)
    edges = kept.at[:, 0]
    np.testing.assert_allclose(kept.shares.unpack()[:, 0], [(before <= edge).mean() for edge in edges], rtol=1e-6)
    shares = kept.count(now) / len(now)
    np.testing.assert_array_equal(shares[:, 0], [(now <= edge).mean() for edge in edges])
    np.testing.assert_allclose(
        kept.ks(shares), max(abs((now <= edge).mean() - (before <= edge).mean()) for edge in edges), atol=1e-6
    )
    assert kept.psi(kept.count(before) / len(before), len(before)) == pytest.approx(0, abs=1e-5)
    assert kept.psi(shares, len(now)) >= 0


@given(values=CELLS)
def test_a_sketch_survives_json(values: np.ndarray) -> None:
    sketch = sketch_of(np.nan_to_num(values))
    assert Sketch.model_validate_json(sketch.model_dump_json()) == sketch


def test_edges_are_deciles_once_each() -> None:
    ten = np.arange(1, 11, dtype=np.float32).repeat(20)[:, None]
    assert Distribution.of(ten[20:]).at[:2, 0].tolist() == [np.nextafter(np.float32(2), np.float32(-1)), 2]
    continuous = np.linspace(0, 1, 1001, dtype=np.float32)[:, None]
    np.testing.assert_allclose(Distribution.of(continuous).at[:, 0], [*np.arange(1, 10) / 10, np.inf], atol=2e-3)
    assert Distribution.of(np.full((5, 1), np.nan, dtype=np.float32)).at[:, 0].tolist() == [math.inf] * 10


def test_psi_is_the_formula() -> None:
    """Deciles, and traffic that has none of the lower half."""
    before = np.arange(1000, dtype=np.float32)[:, None]
    kept = Distribution.of(before)
    now = before[500:]
    p, q = np.array([0] * 5 + [0.2] * 5 + [0]), np.array([0.1] * 10 + [0])
    p, q = ((share + 0.5 / 500) / (1 + 11 * 0.5 / 500) for share in (p, q))
    expected = ((p - q) * np.log(p / q)).sum()
    np.testing.assert_allclose(kept.psi(kept.count(now) / len(now), len(now)), expected, rtol=0.02)
    np.testing.assert_allclose(kept.ks(kept.count(now) / len(now)), 0.5, atol=0.01)


def test_psi_without_drift_is_as_large_as_chance_makes_it() -> None:
    rng = np.random.default_rng(0)
    n, m = 3000, 1000
    kept = Distribution.of(rng.standard_normal((n, 200), dtype=np.float32))
    now = rng.standard_normal((m, 200), dtype=np.float32)
    assert kept.psi(kept.count(now) / m, m).mean() == pytest.approx(9 * (1 / n + 1 / m), rel=0.1)


def test_the_limit_is_hoeffdings() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    sketch = sketch_of(rows)
    edges = 10 * 4
    limit = sketch.limit(2000)
    assert edges * 2 * math.exp(-2 * limit**2 / (1 / 500 + 1 / 2000)) == pytest.approx(FALSE_ALARM_RATE)
    assert sketch.limit(0) == math.inf
    assert not compare(sketch, rows[:0], sketch.count_scores(EMPTY, EMPTY, EMPTY))


def table(rng: np.random.Generator, rows: int) -> np.ndarray:
    """20 columns: normal ones, skewed ones, counts that are mostly 0, two values, one value, some cells missing."""
    columns = [
        rng.standard_normal((rows, 12)),
        rng.exponential(size=(rows, 3)),
        rng.poisson(0.3, (rows, 2)),
        rng.integers(0, 2, (rows, 1)),
        np.full((rows, 1), 3.0),
        np.where(rng.random((rows, 1)) < 0.2, np.nan, rng.standard_normal((rows, 1))),
    ]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def images(rng: np.random.Generator, rows: int) -> np.ndarray:
    """784 grey values, most of them 0, that go together."""
    loadings = np.random.default_rng(5).standard_normal((10, 784))
    return np.maximum(rng.standard_normal((rows, 10)) @ loadings - 2, 0, dtype=np.float32)


@pytest.mark.parametrize("draw", [table, images])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh rows", "calibration rows"])
def test_what_does_not_drift_is_seldom_flagged(draw, fresh: bool) -> None:
    """200 windows of 250 rows: as many as the service counts of 2,000 wide ones."""
    rng = np.random.default_rng(1)
    calibration = draw(rng, 1000)
    sketch = sketch_of(calibration)
    flagged = 0
    for _ in range(200):
        rows = draw(rng, 250) if fresh else calibration[rng.integers(0, len(calibration), 250)]
        flagged += bool(drift_of(sketch, rows))
    assert flagged <= 2  # the limit's promise is 1 %


def test_the_limit_is_not_far_beyond_what_chance_does() -> None:
    """A limit that nothing ever reaches would keep every promise."""
    rng = np.random.default_rng(2)
    sketch = sketch_of(table(rng, 1000))
    drifts = [drift_of(sketch, table(rng, 250)) for _ in range(200)]
    assert max(drift.ks.max() for drift in drifts) > 0.6 * drifts[0].limit


@pytest.mark.parametrize(("draw", "feature"), [(table, 3), (images, 400)])
def test_one_feature_shifted_by_one_spread_is_flagged(draw, feature: int) -> None:
    rng = np.random.default_rng(3)
    calibration = draw(rng, 1000)
    sketch = sketch_of(calibration)
    for _ in range(20):
        rows = draw(rng, 250)
        rows[:, feature] += calibration[:, feature].std()
        drift = drift_of(sketch, rows)
        assert drift
        assert drift.worst(1) == [feature]
        assert np.flatnonzero(drift.drifted).tolist() == [feature]


@pytest.mark.parametrize("to", [-5.0, 2.5, 9.0, math.nan])
def test_values_that_were_all_alike_are_seen_to_move(to: float) -> None:
    """Down, up, or away: there is an edge on both sides of what many rows had."""
    rng = np.random.default_rng(4)
    rows = table(rng, 1000)
    sketch = sketch_of(rows)
    rows[:, 17] = to  # 0 or 1
    rows[:, 18] = to  # 3
    drift = drift_of(sketch, rows)
    assert drift.drifted[17]
    assert drift.drifted[18]


def test_cells_that_go_missing_are_drift() -> None:
    rng = np.random.default_rng(5)
    sketch = sketch_of(table(rng, 1000))
    rows = table(rng, 1000)
    rows[:500, 0] = np.nan
    drift = drift_of(sketch, rows)
    assert np.flatnonzero(drift.drifted).tolist() == [0]
    assert (drift.missing_before[0], drift.missing[0]) == pytest.approx((0, 0.5))
    assert drift.missing_before[19] == pytest.approx(0.2, abs=0.05)


def test_categories_have_a_share_that_is_unknown() -> None:
    schema = Schema((Column(name="a"), Column(name="b", type="categorical", categories=tuple("uvwxyz"))))
    rng = np.random.default_rng(6)
    codes = rng.choice(7, 1000, p=[0.02, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01])
    rows = np.stack([rng.standard_normal(1000), codes], axis=1).astype(np.float32)
    sketch = sketch_of(rows, schema=schema)
    drift = drift_of(sketch, rows)
    assert not drift
    np.testing.assert_allclose(drift.unknown, [np.nan, (codes == 0).mean()], atol=1e-6)
    strange = rows.copy()
    strange[:400, 1] = 0
    drift = drift_of(sketch, strange)
    assert np.flatnonzero(drift.drifted).tolist() == [1]
    assert drift.unknown[1] == pytest.approx((strange[:, 1] == 0).mean())
    assert drift.unknown_before[1] == pytest.approx((codes == 0).mean())


def test_scores_p_values_and_clipped_numbers_are_compared() -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((1000, 4)).astype(np.float32)
    sketch = sketch_of(rows)
    scores, clipped = scores_of(rows)
    p_values = rng.random(1000)
    unmoved = compare(sketch, rows, sketch.count_scores(scores, p_values, clipped))
    assert not unmoved
    assert (unmoved.score_ks, unmoved.score_psi) == pytest.approx((0, 0), abs=0.001)
    assert unmoved.mean_p_value == pytest.approx(p_values.mean())
    assert unmoved.clipped == pytest.approx(unmoved.clipped_before) == pytest.approx(clipped.sum() / 4000)
    moved = compare(sketch, rows, sketch.count_scores(scores * 3, p_values, clipped))
    assert moved.score_drifted
    assert not moved.drifted.any()
    unscored = compare(sketch, rows, sketch.count_scores(EMPTY, EMPTY, EMPTY))
    assert math.isnan(unscored.score_ks)
    assert not unscored


def test_what_runtimes_differ_by_moves_no_score_over_an_edge() -> None:
    rows = np.zeros((1000, 1), dtype=np.float32)
    scores = np.repeat(np.array([0.5, 7.0, 9.0], dtype=np.float32), [300, 400, 300])
    sketch = Sketch.of(rows, scores, scores * 0)
    for factor in (1 - 9e-5, 1 + 9e-5):
        assert compare(sketch, rows, sketch.count_scores(scores * np.float32(factor), scores, scores)).score_ks < 1e-6


def test_counts_of_other_rows_are_added() -> None:
    rows = table(np.random.default_rng(8), 700)
    sketch = sketch_of(rows)
    for count in (sketch.count, lambda part: scored(sketch, part)):
        counts = count(rows[:300])
        counts += count(rows[300:])
        for name, value in vars(count(rows)).items():
            np.testing.assert_allclose(getattr(counts, name), value, err_msg=name)


def test_windows_are_sketched_by_channel_and_overlapping_ones_count_less() -> None:
    rng = np.random.default_rng(9)
    windows = rng.standard_normal((400, 16, 3)).astype(np.float32)
    plain = sketch_of(windows, window=Window(length=16, stride=16))
    overlapping = sketch_of(windows, window=Window(length=16, stride=4))
    assert plain.features.features == overlapping.features.features == 3
    np.testing.assert_allclose(plain.features.shares.unpack()[:-1, 0], np.arange(1, 10) / 10, atol=0.001)
    assert overlapping.limit(100) == pytest.approx(
        math.sqrt((4 / 400 + 1 / 100) / (1 / 400 + 1 / 100)) * plain.limit(100)
    )
    windows[:, :, 1] += 1
    drift = drift_of(overlapping, windows)
    assert np.flatnonzero(drift.drifted).tolist() == [1]
    assert drift.limit == pytest.approx(overlapping.limit(100))
    # Rows that were drawn from many others lie far enough apart.
    drawn = compare(overlapping, windows, scored(overlapping, windows), 8000)
    assert drawn.limit == pytest.approx(overlapping.limit(400))


def test_of_very_wide_rows_some_numbers_stand_for_all() -> None:
    rows = np.random.default_rng(10).standard_normal((50, 40, 30)).astype(np.float32)
    sketch = sketch_of(rows)
    assert len(sketch.positions) == sketch.features.features == 256
    assert (sketch.positions[0], sketch.positions[-1]) == (0, 1199)
    assert len(np.unique(sketch.positions)) == 256
    assert drift_of(sketch, rows).ks.max() < 1e-6
    schema = Schema(
        tuple(
            Column(name=f"c{i}", type="categorical", categories=("a",)) if i == 1199 else Column(name=f"c{i}")
            for i in range(1200)
        )
    )
    assert sketch_of(np.abs(rows.reshape(50, -1)).round(), schema=schema).categorical == (255,)


def test_a_sketch_that_contradicts_itself_is_refused() -> None:
    sketch = sketch_of(np.random.default_rng(11).standard_normal((50, 2)).astype(np.float32))
    content = sketch.model_dump()
    for damage in ({"size": 3}, {"categorical": [2]}, {"score": content["features"]}, {"clipped": 2.0}):
        with pytest.raises(ValidationError):
            Sketch.model_validate({**content, **damage})
    swapped = {"edges": content["features"]["shares"], "shares": content["features"]["edges"]}
    with pytest.raises(ValidationError, match="not ascending"):
        Sketch.model_validate({**content, "features": swapped})
