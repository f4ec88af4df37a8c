"""The labelled series of SKAB, NAB and ASD, each cut into a part to learn from and a part to be scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hourglass.files import open_rows

SETS = ("SKAB", "NAB", "ASD")
_SKAB_FIT = 400  # rows: what its authors learn from
_NAB_FIT, _NAB_LONG = 0.15, 5_000  # of the rows, at most of so many: its probationary period


@dataclass(frozen=True)
class LabelledSeries:
    """fit: float32 [n, channels], without anomalies. test: float32 [m, channels], the rest. anomalous: bool [m]."""

    set: str
    name: str
    fit: np.ndarray
    test: np.ndarray
    anomalous: np.ndarray


def read(folder: Path) -> Iterator[LabelledSeries]:
    """Those of the three sets that lie in `folder`, without the channels that are constant in the fit part."""
    for file in sorted((folder / "skab" / "valve1").glob("*.csv"), key=lambda file: int(file.stem)):
        rows, labels = _columns(file, {"datetime", "anomaly", "changepoint"}, "anomaly")
        yield _cut("SKAB", f"valve1/{file.stem}", rows, labels, _SKAB_FIT)
    nab = folder / "nab"
    for name, windows in json.loads((nab / "labels" / "combined_windows.json").read_text(encoding="utf-8")).items():
        if windows:  # without anomalies there is no precision
            rows, times = _columns(nab / "data" / name, {"timestamp"}, "timestamp")
            written = np.array(times, dtype="datetime64[us]")
            labels = np.zeros(len(rows), dtype=bool)
            for first, last in windows:
                labels |= (written >= np.datetime64(first)) & (written <= np.datetime64(last))
            yield _cut("NAB", Path(name).stem, rows, labels, int(_NAB_FIT * min(len(rows), _NAB_LONG)))
    asd = folder / "asd-omi-1"
    parts = [_columns(asd / f"omi-1_{part}.csv", {"c0", "", "label"}, "label") for part in ("train", "test")]
    (fit, _), (test, labels) = parts
    yield _cut("ASD", "omi-1", np.concatenate([fit, test]), np.concatenate([np.zeros(len(fit)), labels]), len(fit))


def _columns(file: Path, apart: set[str], wanted: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, channels] of the columns that are not `apart`, and one of these, as numbers if it has any."""
    source = open_rows(file)
    assert source.columns is not None
    [batch] = source.batches(10**6)
    rows = batch.numbers([name for name in source.columns if name not in apart])
    if wanted == "timestamp":
        return rows, np.array(batch.column(wanted).to_pylist())
    return rows, batch.numbers([wanted])[:, 0]


def _cut(of: str, name: str, rows: np.ndarray, labels: np.ndarray, fit: int) -> LabelledSeries:
    assert not labels[:fit].any()
    varying = np.ptp(rows[:fit], axis=0) > 0
    return LabelledSeries(of, name, rows[:fit, varying], rows[fit:, varying], labels[fit:].astype(bool))
