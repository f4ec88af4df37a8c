"""Windows of a series as lines: input, reconstruction, and what the decoder makes of one number of the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from hourglass.contract.manifest import FEATURE_ERROR, RECONSTRUCTION, SCORE
from training.report import charts
from training.report.axis import number
from training.report.charts import Series
from training.report.material import Material
from training.report.page import Figure, table

if TYPE_CHECKING:
    from training.report.examples import Examples

_ABREAST = 4  # small charts of a line of the page
_FEATURES = 3


def shown(material: Material) -> int:
    """How many windows are examples: of a single channel two lines of them, else one of each of the worst channels."""
    return 2 * _ABREAST if len(material.columns or ()) == 1 else _ABREAST


def examples(material: Material, of: Examples) -> list[Figure]:
    """Small charts: of each window the channels that are repeated worst, in input units."""
    columns, served = material.columns or (), material.trained.served
    errors = (of.rows - of.reconstructed).square().nanmean(dim=(0, 1)).numpy()
    channels = np.sort(np.argsort(-errors, kind="stable")[:_ABREAST])
    rows, repeated, repaired = (
        served.scaling.inverse(part).numpy() for part in (of.rows, of.reconstructed, of.repaired)
    )
    return [
        Figure(
            f"{columns[channel]}, score {of.scores[window]:.3g}",
            _lines(
                {
                    "line s0": rows[window, :, channel],
                    "line s1": repeated[window, :, channel],
                    "thin s2": repaired[window, :, channel],
                },
                f"Input, reconstruction and repaired {columns[channel]} of a window",
            ),
            "",
        )
        for channel in channels
        for window in range(len(of.scores))
    ]


def explained(
    material: Material, title: str, rows: np.ndarray, answers: Mapping[str, np.ndarray], caption: str
) -> Figure:
    """rows: float32 [n, length, channels] in input units; answers: of model.onnx to them."""
    columns, length = material.columns or (), material.row_shape[0]
    p_values = material.manifest.calibration.p_values(answers[SCORE])
    cells = []
    for row, errors, repeated, score, p_value in zip(
        rows, answers[FEATURE_ERROR], answers[RECONSTRUCTION], answers[SCORE], p_values, strict=True
    ):
        share = errors.sum(axis=0) / max(errors.sum(), np.finfo(np.float32).tiny)
        reasons = []
        for j in np.argsort(-share, kind="stable")[:_FEATURES]:
            at = int(errors[:, j].argmax())
            seen, expected = material.cell(j, row[at, j]), material.cell(j, repeated[at, j])
            reason = Markup('<span class="name">{}</span> ({:.0%}): most at {} of {}: {}, expected {}')
            reasons.append(reason.format(columns[j], share[j], at + 1, length, seen, expected))
        cells.append((number(score), f"{p_value:.2g}", *reasons))
    ranks = ("first", "second", "third")[: min(_FEATURES, len(columns))]
    return Figure(title, table(("score", "p-value", *ranks), cells), caption, wide=True)


def traversed(material: Material, dimensions: Sequence[int], steps: np.ndarray, decoded: np.ndarray) -> list[Figure]:
    """decoded: float32 [dimensions, steps, length, channels] in scaled units."""
    columns = material.columns or ()
    figures = []
    for dimension, windows in zip(dimensions, decoded, strict=True):
        channel = int(np.ptp(windows, axis=0).max(axis=0).argmax())
        shades = {f"line s{index}": window[:, channel] for index, window in enumerate(windows)}
        figures.append(
            Figure(
                f"dimension {dimension}, {material.activity[dimension]:.2f} nats: {columns[channel]}",
                _lines(
                    shades, f"{columns[channel]} while dimension {dimension} moves", [f"{step:g}" for step in steps]
                ),
                "The channel that changes most while one dimension of the embedding moves, all others at 0; in "
                "standard deviations.",
            )
        )
    return figures


def _lines(of: Mapping[str, np.ndarray], alt: str, names: Sequence[str] = ()) -> Markup:
    series = [
        Series(names[index] if names else "", css, np.arange(len(values)), values)
        for index, (css, values) in enumerate(of.items())
    ]
    return charts.lines(series, "", "", alt, small=not names, key=bool(names))
