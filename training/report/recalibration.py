"""report.html beside a recalibrated version: its scores before and now. What the model is, an earlier page shows."""

from __future__ import annotations

import numpy as np

from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import Manifest
from training.false_alarms import interval, percent
from training.report import charts
from training.report.axis import number
from training.report.charts import Sample
from training.report.material import sentence, words
from training.report.page import Figure, Page, Section, facts


def render(name: str, version: int, manifest: Manifest, before: Calibration, scores: np.ndarray) -> str:
    """The page. before: the earlier version's calibration. scores: [n], of the rows that calibrate now."""
    now, provenance = manifest.calibration, manifest.provenance
    source = provenance.recalibrated
    assert source
    old, new = (calibration.threshold(calibration.false_alarm_rate) for calibration in (before, now))
    asked, asked_before = percent(now.false_alarm_rate), percent(before.false_alarm_rate)
    low, high = interval(now, now.false_alarm_rate)
    called = (scores > old).mean()
    kept = np.asarray(before.scores)
    samples = [
        Sample(f"before ({before.rows:,})", "s9", kept, np.diff(before.ranks, prepend=0)),
        Sample(f"now ({now.rows:,})", "s0", scores),
    ]
    histogram = Figure(
        "Scores of calibration rows, before and now",
        charts.histograms(
            samples,
            words(manifest.score.name),
            f"Scores of the earlier calibration rows and of these, with the thresholds at {old:.4g} and {new:.4g}",
            [
                (old, f"before, at {asked_before}: {number(old)}"),
                (new, f"now, at {asked}: {number(new)}"),
            ],
        ),
        "Rows beyond a threshold are called anomalies. Where the two outlines lie apart, the data have changed since "
        "the model was fitted: a new threshold keeps false alarms as asked, but rows that the model repeats badly are "
        "told from anomalies less well, and training anew may be worth it.",
    )
    summary = Figure(
        "Thresholds",
        facts(
            {
                "threshold before": f"{number(old)} at {asked_before} false alarms",
                "threshold now": f"{number(new)} at {asked} false alarms",
                "of these rows above the one before": percent(float(called)),
                "false alarms now, 95 % interval": f"{percent(low)} – {percent(high)}",
            }
        ),
        f"Had the threshold stayed, {percent(float(called))} of these rows would have been called anomalies, where "
        f"{asked_before} was asked.",
    )
    text = (
        f"{sentence(manifest.score.formula)}; higher is more anomalous. Nothing was trained: the files are those of "
        f"version {source.from_version}, byte for byte, and so are its embeddings and scores."
    )
    return Page(
        title=f"{name}, version {version}",
        subtitle=f"Recalibrated from version {source.from_version} on {source.rows:,} rows of {source.data}.",
        facts={
            "pictures of the model": f"report.html of version {source.from_version}",
            "fitted": f"{source.fitted:%Y-%m-%d} on {provenance.data}",
            "recalibrated": f"{provenance.created:%Y-%m-%d} on {source.data}",
        },
        sections=[Section("The score", text, [histogram, summary])],
        footer=f"Made by hourglass-train on {provenance.created:%Y-%m-%d}. For programs: manifest.json.",
    ).html()
