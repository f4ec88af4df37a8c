"""How well scores tell anomalies that are at hand, how often other rows pass for one, and why the worst rows do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve, roc_curve

from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import FEATURE_ERROR, RECONSTRUCTION, SCORE
from training.at_hand import AtHand
from training.detection import MODEL, TITLES, lost, rounded
from training.false_alarms import expected, percent
from training.report import charts, pictures, windows
from training.report.axis import number
from training.report.charts import Sample, Series
from training.report.material import Material, words
from training.report.page import Figure, Section, table
from training.report.pictures import Head, Lane

_FEWEST = 100  # rows of either half, for a curve that says something
_LARGEST_RATE, _POINTS = 0.2, 60
_LABELS = 8
_ROWS, _IMAGES = 6, 10
_FEATURES = 3
_CATEGORIES = (
    "Of categories the likeliest is expected: one that is rare, or not sure, has its share where it comes back, too. "
)


def at_hand(material: Material) -> Section | None:
    """How well the rows that the fit excluded are told from the others."""
    found = material.at_hand
    if found is None:
        return None
    methods = found.compared.figures()
    headers = ("", "AUROC", "AUPRC", "recall at 1 %", "at 0.1 %")
    rows = [(TITLES[name], *map(rounded, values.values())) for name, values in methods.items()]
    loses = lost({name: values["auroc"] for name, values in methods.items()})
    figures = Figure(
        "Beside simple detectors",
        table(headers, rows),
        f"{loses or 'No simple detector ranks these rows better.'} All learned from the same rows. "
        "AUROC: how likely an anomaly scores above a calibration row. AUPRC: mean precision of the alarms while more "
        f"and more are raised, as if {percent(found.compared.share)} of all rows were anomalies. Recall: share of the "
        "anomalies found when that share of the calibration rows is called one, too.",
    )
    return Section(
        "Anomalies at hand",
        f"{found.excluded.total:,} rows were left out of the fit, for their label ({material.trained.config.label}): "
        "taken as anomalies, they show what the score is worth beside the calibration rows.",
        [_by_label(material, found), _roc(found), _precision(found), figures],
    )


def _by_label(material: Material, found: AtHand) -> Figure:
    labels, scores = np.array(found.excluded.labels), found.answers[SCORE]
    names, counts = np.unique(labels, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:_LABELS]
    groups = {str(name): scores[labels == name] for name in largest}
    if len(names) > _LABELS:
        groups["other labels"] = scores[~np.isin(labels, largest)]
    samples = [Sample(f"calibration rows ({len(material.scores):,})", "s0", material.scores)]
    samples += [
        Sample(f"{name} ({len(group):,})", f"s{1 + index}", group) for index, (name, group) in enumerate(groups.items())
    ]
    threshold = number(material.threshold)
    return Figure(
        "Scores by label",
        charts.histograms(
            samples,
            words(material.manifest.score.name),
            f"Which share of each label's rows has which score, with the threshold at {threshold}",
            [(material.threshold, f"threshold {threshold}")],
        ),
        f"Beyond the line lie {percent(float((scores > material.threshold).mean()))} of the anomalies, and "
        f"{material.false_alarms} of the calibration rows at most. What overlaps cannot be told by this score.",
    )


def _roc(found: AtHand) -> Figure:
    curves = {name: roc_curve(found.compared.anomalous, scores) for name, scores in found.compared.scores.items()}
    return Figure(
        "Anomalies found, false alarms raised",
        charts.lines(
            [_series(name, fpr, tpr) for name, (fpr, tpr, _) in curves.items()],
            "share of calibration rows called anomalies",
            "share of anomalies found",
            "ROC: the share of anomalies found against the share of calibration rows called anomalies",
        ),
        "Each point is a threshold (ROC curve). The further up and left a line, the better; guessing is the diagonal.",
    )


def _precision(found: AtHand) -> Figure:
    anomalous, weights = found.compared.anomalous, found.compared.weights
    curves = {
        name: precision_recall_curve(anomalous, scores, sample_weight=weights)
        for name, scores in found.compared.scores.items()
    }
    return Figure(
        "Which alarms are right",
        charts.lines(
            [_series(name, recall, precision) for name, (precision, recall, _) in curves.items()],
            "share of anomalies found (recall)",
            "share of alarms that are right (precision)",
            "Precision against recall",
        ),
        f"Each point is a threshold. Guessing is right in {percent(found.compared.share)} of the cases, the share of "
        "anomalies in the file: the rarer they are, the harder it is.",
    )


def _series(name: str, x: np.ndarray, y: np.ndarray) -> Series:
    return Series(TITLES[name], f"{'line' if name == MODEL else 'thin'} s{list(TITLES).index(name)}", x, y)


def false_alarms(material: Material) -> Figure | None:
    """Asked and realised, on calibration rows that did not calibrate; None where they are too few."""
    shuffled = np.random.default_rng(material.trained.config.seed).permutation(material.scores)
    calibrating, fresh = np.array_split(shuffled, 2)
    if len(fresh) < _FEWEST:
        return None
    calibration = Calibration.from_scores(calibrating, _LARGEST_RATE)
    asked = np.linspace(calibration.smallest_false_alarm_rate * (1 + 1e-9), _LARGEST_RATE, _POINTS)
    realised = np.array([(fresh > calibration.threshold(rate)).mean() for rate in asked])
    low, high = np.array([expected(calibration, rate, len(fresh)) for rate in asked]).T
    series = [
        Series("95 % of models, below", "thin s9", asked, low),
        Series("95 % of models, above", "thin s9", asked, high),
        Series("as asked", "line s9", asked, asked),
        Series("realised", "line s0", asked, realised),
    ]
    return Figure(
        "False alarms, asked and realised",
        charts.lines(
            series,
            "false-alarm rate asked",
            "share called anomalies",
            "The share of rows called anomalies against the false-alarm rate asked, with what chance allows",
            key=False,
        ),
        "A rehearsal of the promise: half of the calibration rows set the threshold, and of the other "
        f"{len(fresh):,} the share is shown that lies beyond it. The thick grey line is what was asked; between the "
        "thin ones lie 95 % of models by chance. Below them, many rows have the same score. Fresh rows of changed data "
        "lie above: hourglass-train evaluate shows them.",
    )


def worst(material: Material) -> Section | None:
    """The rows that score highest, and why; of the anomalies at hand those that score lowest, too."""
    if not material.shows_rows:
        return None
    splits, found = material.trained.splits, material.at_hand
    most = _IMAGES if material.columns is None else _ROWS
    highest = np.argsort(-material.scores, kind="stable")[:most]
    figures = [
        _rows(
            material,
            "Calibration rows that score highest",
            splits.calibration.numpy()[highest],
            {name: answer[highest] for name, answer in material.answers.items()},
            "What the model finds strangest among them: rare, wrong or badly learned.",
        )
    ]
    if found:
        scores, rows = found.answers[SCORE], found.excluded.rows.numpy()
        kinds = "label" if material.columns is None else "label and first column"
        for title, chosen, caption in (
            (
                "Anomalies that stand out",
                _standing_out(material, found, most),
                f"The highest scores of the excluded rows, of each {kinds} one before there are two.",
            ),
            (
                "Anomalies that pass",
                np.argsort(scores, kind="stable")[:most],
                "The lowest scores of the excluded rows.",
            ),
        ):
            answers = {name: answer[chosen] for name, answer in found.answers.items()}
            labels = [found.excluded.labels[row] for row in chosen.tolist()]
            figures.append(_rows(material, title, rows[chosen], answers, caption, labels))
    text = "What single rows score, and why: " + (
        "where the score comes from, pixel by pixel."
        if material.columns is None
        else "the columns with the largest shares, what was seen there, and what the model expected: its "
        "reconstruction, in the units of the data. A share counts in units of what is usual for the column, and errors "
        "that usually come together count once: the column with the largest raw difference need not come first. "
        f"{_CATEGORIES if material.categorical else ''}"
        f"p-value: of {material.fresh}, at most this share scores as high."
    )
    return Section("Single rows explained", text, figures)


def _standing_out(material: Material, found: AtHand, most: int) -> np.ndarray:
    """Positions of `most` excluded rows by falling score: of each kind that stands out the first, then others."""
    scores = found.answers[SCORE]
    order = np.argsort(-scores, kind="stable")
    kinds = np.unique(found.excluded.labels, return_inverse=True)[1][order]
    if material.columns is not None:
        errors = found.answers[FEATURE_ERROR][order]
        errors = errors.sum(axis=1) if material.windowed else errors
        kinds = kinds * len(material.columns) + errors.argmax(axis=1)
    firsts = np.sort(np.unique(kinds, return_index=True)[1])
    firsts = firsts[scores[order[firsts]] > material.threshold]
    others = np.setdiff1d(np.arange(len(order)), firsts)
    chosen: np.ndarray = order[np.sort(np.concatenate([firsts, others])[:most])]
    return chosen


def _rows(
    material: Material,
    title: str,
    rows: np.ndarray,
    answers: Mapping[str, np.ndarray],
    caption: str,
    labels: Sequence[str] = (),
) -> Figure:
    """rows: float32 [n, *row_shape] in input units; answers: of model.onnx to them; labels: of each, if they have one.

    A table's labels are shown.
    """
    if material.columns is None:
        return _images(material, title, rows, answers, caption)
    if material.windowed:
        return windows.explained(material, title, rows, answers, caption)
    p_values = material.manifest.calibration.p_values(answers[SCORE])
    errors = answers[FEATURE_ERROR]
    shares = errors / np.maximum(errors.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cells = []
    for row, share, repeated, score, p_value in zip(
        rows, shares, answers[RECONSTRUCTION], answers[SCORE], p_values, strict=True
    ):
        reasons = [
            Markup('<span class="name">{}</span> ({:.0%}): {}, expected {}').format(
                material.columns[j], share[j], material.cell(j, row[j]), material.cell(j, repeated[j])
            )
            for j in np.argsort(-share, kind="stable")[:_FEATURES]
        ]
        cells.append((number(score), f"{p_value:.2g}", *reasons))
    headers = ("score", "p-value", *("first", "second", "third")[: min(_FEATURES, len(material.columns))])
    if labels:
        headers, cells = ("label", *headers), [(label, *row) for label, row in zip(labels, cells, strict=True)]
    return Figure(title, table(headers, cells), caption, wide=True)


def _images(
    material: Material, title: str, rows: np.ndarray, answers: Mapping[str, np.ndarray], caption: str
) -> Figure:
    scaling, errors = material.trained.served.scaling, answers[FEATURE_ERROR]
    expected = scaling.unclipped(torch.from_numpy(answers[RECONSTRUCTION]))
    largest = errors.reshape(len(errors), -1).max(axis=1).reshape(-1, *[1] * (errors.ndim - 1))
    lanes = [
        Lane("input", pictures.brightness(scaling(torch.from_numpy(rows)).numpy())),
        Lane("expected", pictures.brightness(expected.numpy())),
        Lane("error", pictures.warmth(errors / np.maximum(largest, np.finfo(np.float32).tiny))),
    ]
    heads = [Head(f"{score:.3g}", "warn" if score > material.threshold else "") for score in answers[SCORE]]
    return Figure(
        title,
        pictures.lanes(lanes, title, heads, "score"),
        f"{caption} Error: where the score comes from, full colour at the largest part of each image's.",
        wide=True,
    )
