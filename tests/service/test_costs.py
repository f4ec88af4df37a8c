from __future__ import annotations

import time

import pytest

from service import costs
from service.costs import Costs


def test_sizes_are_doubled_until_a_batch_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(rows: int) -> None:
        ran.append(rows)
        clock[0] += 1e-4 + rows * 1e-5

    measured = Costs.measure(run, max_rows=100_000)
    assert measured.rows == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert measured.seconds[-1] >= costs._BATCH_SECONDS
    assert measured.batch_rows == 256
    assert measured.expect(3) == pytest.approx(1.3e-4)
    assert measured.expect(1024) == pytest.approx(2 * (1e-4 + 512e-5))


def test_the_largest_batch_there_can_be_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    measured = Costs.measure(lambda _rows: None, max_rows=100)
    assert measured.rows == (1, 2, 4, 8, 16, 32, 64, 100)
    assert measured.batch_rows == 100


def test_a_slow_model_runs_row_by_row() -> None:
    assert Costs((1,), (1.0,)).batch_rows == 1
    assert Costs((1,), (1.0,)).expect(5) == 5.0


@pytest.mark.parametrize(
    ("fixed", "per_row", "batch_rows"),
    [
        (3.9e-3, 1e-7, 1024),  # rows are as good as free
        (3.2e-3, 5e-6, 1024),
        (3e-3, 2e-5, 256),
        (4.2e-3, 1e-6, 1024),  # although a single row takes longer than a batch should
        (1e-5, 1e-6, 1024),
        (1e-5, 1e-4, 32),
        (0.0, 5e-3, 1),
        (1.0, 1e-6, 1),  # so slow that nobody measures on
    ],
)
def test_a_batch_is_as_large_as_it_pays(
    monkeypatch: pytest.MonkeyPatch, fixed: float, per_row: float, batch_rows: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(rows: int) -> None:
        clock[0] += fixed + rows * per_row

    measured = Costs.measure(run, max_rows=1024)
    assert measured.batch_rows == batch_rows
    few = measured.few()
    assert few.batch_rows == few.rows[-1] == batch_rows
    assert set(few.rows) <= set(measured.rows)
    assert few.size(1) == few.rows[0]
    assert few.expect(batch_rows) == pytest.approx(fixed + batch_rows * per_row)
    for smaller, larger in zip(few.seconds, few.seconds[1:], strict=False):
        assert smaller <= 0.75 * larger
