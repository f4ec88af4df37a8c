from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hourglass.files import FileError, open_rows
from hourglass.files.timestamps import TimeColumn, Timeline, duration, usual_step

MAY = datetime(2024, 5, 31, 18, 30, tzinfo=UTC).timestamp()


def read(path: Path, size: int = 100) -> list[float]:
    column = TimeColumn("time")
    seconds: list[float] = np.concatenate([column.seconds(batch) for batch in open_rows(path).batches(size)]).tolist()
    return seconds


def csv(folder: Path, *times: str) -> Path:
    file = folder / "series.csv"
    file.write_text("time;value\n" + "".join(f"{time};{i}.5\n" for i, time in enumerate(times)))
    return file


@pytest.mark.parametrize(
    "written",
    [
        ("2024-05-31 18:30:00", "2024-05-31 18:30:01"),
        ("2024-05-31T18:30:00", "2024-05-31T18:30:01.000000000"),
        ("2024-05-31T18:30:00Z", "2024-05-31T20:30:01+02:00"),
        ("31.05.2024 18:30:00", "31.05.2024 18:30:01"),
        ("2024/05/31 18:30:00", "2024/05/31 18:30:01"),
        (f"{MAY:.0f}", f" {MAY + 1:.0f} "),
    ],
)
def test_usual_ways_to_write_a_time(written: tuple[str, str], tmp_path: Path) -> None:
    assert read(csv(tmp_path, *written), size=1) == [MAY, MAY + 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([datetime.fromtimestamp(MAY, UTC), datetime.fromtimestamp(MAY + 0.25, UTC)], [MAY, MAY + 0.25]),
        ([date(1970, 1, 2), date(1970, 1, 3)], [86_400.0, 172_800.0]),
        ([1, 2], [1.0, 2.0]),
        ([0.5, 0.75], [0.5, 0.75]),
    ],
)
def test_times_that_are_no_text(values: list[object], expected: list[float], tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": values, "value": [0.0, 1.0]}), tmp_path / "series.parquet")
    assert read(tmp_path / "series.parquet") == expected


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            ("2024-05-31", "2024-05-31", "2024-05-30"),
            "line 4, column 'time': '2024-05-30' is earlier than the row before",
        ),
        (
            ("5/6/2024 10:00", "5/6/2024 10:01"),
            "line 2, column 'time': '5/6/2024 10:00' is no time: a number of seconds",
        ),
        (("2024-05-31", "soon"), "line 3, column 'time': 'soon' is no time"),
        (("2024-05-31", "12"), "line 3, column 'time': '12' is no time"),
        (("2024-05-31", ""), "line 3, column 'time': the time is missing: fill it in or remove the row"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_what_is_no_time_or_comes_too_early_is_refused(
    times: tuple[str, ...], message: str, size: int, tmp_path: Path
) -> None:
    with pytest.raises(FileError) as error:
        read(csv(tmp_path, *times), size)
    assert message in str(error.value)


def test_a_timeline_does_not_depend_on_batches() -> None:
    seconds = np.cumsum(np.random.default_rng(0).choice([0.0, 1.0, 2.0, 30.0], p=[0.05, 0.8, 0.1, 0.05], size=500))
    step = usual_step(seconds)
    assert step == 1
    whole, parts = Timeline(step, 32), Timeline(step, 32)
    after = whole.add(seconds)
    assert np.array_equal(after, np.flatnonzero(np.diff(seconds) > 4) + 1)
    found = [parts.add(part) + start for start, part in ((i, seconds[i : i + 7]) for i in range(0, 500, 7))]
    assert np.concatenate(found).tolist() == after.tolist()
    assert parts == whole
    steps = np.diff(seconds)
    assert (whole.steps, whole.repeated, whole.irregular) == (499, (steps == 0).sum(), (steps == 2).sum())


def test_durations_for_people() -> None:
    assert [
        duration(timedelta(**d).total_seconds()) for d in ({"minutes": 5}, {"hours": 36}, {"milliseconds": 20})
    ] == [
        "5 min",
        "1.5 d",
        "0.02 s",
    ]
