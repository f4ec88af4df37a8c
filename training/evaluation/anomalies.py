"""How well scores tell anomalies, beside simple detectors, and how often normal rows are called anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.table import Table

from hourglass.contract.manifest import Manifest
from training.data import MIN_ROWS, Dataset
from training.detection import MODEL, TITLES, Compared, calibrated_mixed, drawn, figures, lost, most_rows, rounded
from training.errors import ConfigError, DataError
from training.evaluation.published import Published
from training.evaluation.rows import Data, says_normal
from training.evaluation.section import Numbers, Section, table
from training.evaluation.subject import TEST_SHARE, Anomalies, Subject, divide
from training.false_alarms import expected, percent

_RATES = (0.05, 0.01)


def find(data: Data, asked: Sequence[str], manifest: Manifest) -> Anomalies | None:
    """Which rows are anomalies: those with a label among `asked`; if none is asked for, those that the fit excluded; if
    it excluded none, those with the other of two labels of which one says normal. Raises TrainingError."""
    if asked:
        if data.labels is None:
            raise ConfigError("--anomalies needs --label COLUMN: the column to look at")
        rows, named = data.labels.among(asked, data.source), f"{data.labels.column} {', '.join(asked)}"
    elif data.excluded.any():
        fit = manifest.provenance.config
        rows, named = data.excluded, f"{fit['label']} {', '.join(fit['exclude_label'])}, which the fit excluded"
    elif data.labels and (odd := _odd_one(data.labels.values)):
        rows, named = data.labels.among([odd], data.source), f"{data.labels.column} {odd}"
    else:
        return None
    found = Anomalies(rows, ~rows & ~data.excluded, named)
    if found.normal.sum() < MIN_ROWS:
        if not asked:
            return None
        count = int(found.normal.sum())
        raise DataError(f"{data.source}: {count} rows that are no anomalies, but at least {MIN_ROWS} are needed")
    return found


def _odd_one(values: Sequence[str]) -> str | None:
    odd = [value for value in values if not says_normal(value)]
    return odd[0] if len(values) == 2 and len(odd) == 1 else None


@dataclass(frozen=True)
class _Parts:
    """Positions of tested rows, normal ones first, and what the baselines learn from: [m, features], scaled units.

    weights: how many rows of the file each of the tested stands for.
    """

    normal: np.ndarray
    anomalous: np.ndarray
    learned: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, data: Data, anomalies: Anomalies, model: Published) -> _Parts:
        most = most_rows(model.features(data.rows[:1]).size)
        normal, anomalous = np.flatnonzero(anomalies.normal), np.flatnonzero(anomalies.rows)
        counts = np.array([len(normal), len(anomalous)], dtype=np.float64)
        if data.left_out is None:
            fitted, normal = divide(normal, TEST_SHARE, None)
            learned = data.rows[fitted[drawn(len(fitted), most)]]
        else:
            learned = data.left_out[drawn(len(data.left_out), most)]
            counts[0] += len(data.left_out)
        normal, anomalous = (part[drawn(len(part), most)] for part in (normal, anomalous))
        sizes = [len(normal), len(anomalous)]
        return cls(normal, anomalous, model.features(learned), np.repeat(counts / sizes, sizes))

    @property
    def tested(self) -> np.ndarray:
        return np.concatenate([self.normal, self.anomalous])


def measure(subject: Subject) -> Section:
    """Ranking on a sample, rates on all rows."""
    anomalies, data, model = subject.anomalies, subject.whole, subject.model
    assert anomalies
    scores = model.score(data.rows)
    parts = _Parts.of(data, anomalies, model)
    tested = model.features(data.rows[parts.tested])
    anomalous = anomalies.rows[parts.tested]
    compared = Compared.of(scores[parts.tested], parts.learned, tested, anomalous, parts.weights)
    methods = compared.figures()
    ranking = table("telling anomalies", "AUROC", "AUPRC", "recall at 1 %", "at 0.1 %")
    for name, found in methods.items():
        ranking.add_row(TITLES[name], *map(rounded, found.values()))
    timestamps = _timestamps(data, scores, model.manifest)
    if timestamps is not None:
        ranking.add_row("this model, timestamp by timestamp", *map(rounded, timestamps.values()))
    which = "rows that the model learned from" if data.left_out is not None else f"other normal rows of {data.source}"
    sentences = [
        f"Anomalies: {anomalies.named}: {anomalies.rows.sum():,} rows, and {anomalies.normal.sum():,} normal ones. "
        f"Tested on {len(parts.anomalous):,} and {len(parts.normal):,}; AUPRC as if {percent(compared.share)} of all "
        "rows were anomalies, as in the file.",
        f"PCA, kNN and IsolationForest learned from {len(parts.learned):,} {which}.",
    ]
    if None in methods[MODEL].values():
        sentences.append(f"–: {len(parts.normal):,} normal rows are too few to count so few false alarms.")
    if loses := lost({name: found["auroc"] for name, found in methods.items()}):
        sentences.append(loses)
    alarms, rates, said = _false_alarms(scores, anomalies, subject)
    numbers: Numbers = {
        "anomalies": anomalies.named,
        "rows": {
            "normal": int(anomalies.normal.sum()),
            "anomalous": int(anomalies.rows.sum()),
            "tested_normal": len(parts.normal),
            "tested_anomalous": len(parts.anomalous),
            "baselines_learned": len(parts.learned),
        },
        "methods": methods,
        "normal_rows": _normal_rows(subject, anomalies),
        "false_alarms": alarms,
        **({} if timestamps is None else {"timestamps": timestamps}),
    }
    return Section("anomalies", numbers, (ranking, rates), (*sentences, *said))


def _timestamps(data: Data, scores: np.ndarray, manifest: Manifest) -> dict[str, float | None] | None:
    """How well the mean score of a timestamp's windows tells whether its own label marks it; no neighbour's counts."""
    if manifest.window is None or data.starts is None or data.marked is None:
        return None
    total, count = np.zeros(len(data.marked)), np.zeros(len(data.marked))
    for offset in range(manifest.window.length):
        total[data.starts + offset] += scores
        count[data.starts + offset] += 1
    covered = count > 0
    marked = data.marked[covered]
    if marked.all() or not marked.any():
        return None
    return figures(total[covered] / count[covered], marked, np.ones(len(marked)))


def _false_alarms(scores: np.ndarray, anomalies: Anomalies, subject: Subject) -> tuple[Numbers, Table, tuple[str, ...]]:
    """Asked and realised, of the rates that the calibration can promise; on all rows."""
    calibration = subject.model.manifest.calibration
    fresh = _normal_rows(subject, anomalies) == "fresh"
    normal, odd = scores[anomalies.normal], scores[anomalies.rows]
    rates = sorted({calibration.false_alarm_rate, *_RATES}, reverse=True)
    refused = [rate for rate in rates if rate < calibration.smallest_false_alarm_rate * (1 - 1e-12)]
    numbers: dict[str, Numbers] = {}
    shown = table("false alarms asked", "threshold", "realised", "95 % of models", "anomalies found")
    too_many = []
    for rate in rates:
        if rate in refused:
            continue
        threshold = calibration.threshold(rate)
        low, high = expected(calibration, rate, len(normal))
        realised = float((normal > threshold).mean()) if fresh else None
        recall = float((odd > threshold).mean())
        numbers[f"{rate:g}"] = {
            "threshold": threshold,
            "realised": realised,
            "expected_low": low if fresh else None,
            "expected_high": high if fresh else None,
            "recall": recall,
        }
        between = ("–", "–") if realised is None else (percent(realised), f"{percent(low)} – {percent(high)}")
        own = " (its own)" * (rate == calibration.false_alarm_rate)
        shown.add_row(f"{percent(rate)}{own}", f"{threshold:.4g}", *between, percent(recall))
        if realised is not None and realised > high:
            too_many.append(percent(rate))
    sentences = [_WHY_NOT_FRESH[_normal_rows(subject, anomalies)]] if not fresh else []
    if calibrated_mixed(subject.model.manifest.provenance):
        sentences.append(
            "The calibration rows hold the same anomalies as the training rows: the rates asked count anomalies, too, "
            "and fewer normal rows are called. Ask for at least the share of anomalies, or recalibrate on clean rows "
            "with hourglass-train calibrate."
        )
    if refused:
        sentences.append(
            f"{calibration.rows:,} calibration rows cannot promise {' or '.join(map(percent, refused))} false alarms."
        )
    if too_many:
        sentences.append(
            f"More false alarms than chance allows ({', '.join(too_many)} asked): these rows are not like those that "
            "calibrated the model. hourglass-train calibrate renews the thresholds."
        )
    return numbers, shown, tuple(sentences)


_WHY_NOT_FRESH = {
    "calibrated": "These normal rows calibrated the model: the thresholds were set by them, so what they realise says "
    "nothing and is not shown. --data with other rows shows what is realised.",
    "trained": "Normal rows that trained the model are among these: their false alarms say nothing.",
}


def _normal_rows(subject: Subject, anomalies: Anomalies) -> Literal["fresh", "calibrated", "trained"]:
    """What the model has had to do with them. Only the very rows of a fit or a calibration are recognised."""
    data, recalibrated = subject.whole, subject.model.manifest.provenance.recalibrated
    if data.fitted_rows == "included":
        return "trained"
    if recalibrated is None:
        return "calibrated" if data.fitted_rows == "left out" else "fresh"
    sha256 = Dataset.of(data.source, data.rows[anomalies.normal], None).sha256
    return "calibrated" if sha256 == recalibrated.data_sha256 else "fresh"
