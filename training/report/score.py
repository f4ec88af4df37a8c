"""What scores are, and which features make them."""

from __future__ import annotations

import numpy as np

from training.detection import calibrated_mixed
from training.report import anomalies, charts, pictures
from training.report.axis import number
from training.report.material import Material, sentence, words
from training.report.page import Figure, Section, facts
from training.report.pictures import Lane

_COLUMNS = 20


def section(material: Material) -> Section:
    manifest, threshold = material.manifest, number(material.threshold)
    histogram = Figure(
        "Scores of calibration rows",
        charts.histogram(
            material.scores,
            words(manifest.score.name),
            f"How often which score comes, with the threshold at {threshold}",
            (material.threshold, f"threshold {threshold}"),
        ),
        f"Rows beyond the line are called anomalies: on average at most {material.false_alarms} of {material.fresh}. A "
        "long tail on the right is rows that the model cannot repeat: worth a look before it is trusted.",
    )
    metrics = {words(n): number(v) for n, v in manifest.provenance.metrics.items() if n != "best_epoch"}
    errors = _pixels(material) if material.columns is None else _columns(material)
    text = (
        f"{sentence(manifest.score.formula)}; higher is more anomalous. Calibrated on {manifest.calibration.rows:,} "
        "rows that neither training nor early stopping saw."
    )
    if calibrated_mixed(manifest.provenance):
        text += (
            " The calibration rows hold the same anomalies as the training rows: ask for a false-alarm rate of at "
            "least their share, or recalibrate on clean rows with hourglass-train calibrate."
        )
    curve = anomalies.false_alarms(material)
    summary = Figure("Metrics", facts(metrics), "Means over the calibration rows, in scaled units.", wide=curve is None)
    return Section("The score", text, [histogram, errors, *([curve] if curve else []), summary])


def _columns(material: Material) -> Figure:
    errors, names = material.column_error, material.columns or ()
    largest = np.argsort(-errors, kind="stable")[:_COLUMNS]
    some = f" The {_COLUMNS} largest of {len(names):,} are shown." if len(names) > _COLUMNS else ""
    return Figure(
        "Error of each column",
        charts.named_bars(
            errors[largest],
            [names[column] for column in largest],
            "mean feature_error",
            "The mean error of each column, the largest first",
        ),
        f"{sentence(material.trained.served.score.feature_error)}; averaged over calibration rows. On top "
        "are the columns that the others tell least about: noise, or what only this column measures."
        f"{some}",
    )


def _pixels(material: Material) -> Figure:
    errors = material.feature_error
    largest = max(float(np.abs(errors).max()), np.finfo(np.float64).tiny)
    return Figure(
        "Where the error is",
        pictures.lanes([Lane("", pictures.warmth(errors[None] / largest))], "The mean error of each pixel"),
        f"{sentence(material.trained.served.score.feature_error)}; averaged over calibration rows, full colour at "
        f"{number(largest)}. The warmest pixels are the hardest to repeat.",
    )
