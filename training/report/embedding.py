"""What an embedding keeps of a row, and what it decodes to."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hourglass.contract.manifest import EMBEDDING
from training import scoring
from training.report import charts, pictures, windows
from training.report.charts import Block, Series
from training.report.examples import TABLE_COLUMNS
from training.report.material import Material
from training.report.page import Figure, Section
from training.report.pictures import Head, Lane

_POINTS = 2000
_BARS = 200
_TRAVERSED, _TRAVERSED_OF_TABLE = 10, 4
_DRAWN, _ABREAST = 24, 12


def section(material: Material) -> Section:
    figures = [_scatter(material)] if material.shows_rows else []
    text = f"What the model keeps of a row: {material.manifest.embedding_size:,} numbers."
    return Section("The embedding", text, [*figures, _activity(material)])


def generated(material: Material) -> Section | None:
    """For models with a prior: what their embeddings decode to."""
    if material.manifest.prior is None:
        return None
    if material.windowed:
        figures = _traversed_windows(material)
    else:
        figures = _traversed_images(material) if material.columns is None else [_traversed_table(material)]
    text = "Embeddings are held close to N(0, I), so all near 0 decode to something. No row of the data is shown here."
    return Section("What the embedding says", text, figures)


def _scatter(material: Material) -> Figure:
    embedding = material.answers[EMBEDDING][:_POINTS].astype(np.float64)
    scores, config = material.scores[:_POINTS], material.trained.config
    x, y, axes, how = projected(embedding, scores, config.seed)
    labels = material.trained.splits.calibration_labels
    if labels is not None and len(set(labels)) > 1:
        groups = _by_label(np.array(labels[:_POINTS]))
        meaning = f"Colours are the labels in {config.label!r}, which training never saw."
    else:
        groups = _by_score(scores, material.threshold)
        meaning = "Colours are scores: do the anomalies lie apart from the crowd?"
    series = [Series(name, css, x[chosen], y[chosen]) for name, css, chosen in groups if chosen.any()]
    return Figure(
        "Rows by their embedding",
        charts.scatter(series, *axes, "Calibration rows, each a dot at its embedding"),
        f"Each dot is one of {len(x):,} calibration rows; near ones are alike to the model. {how} {meaning} "
        "The few that lie far outside are drawn on the edge.",
    )


def projected(
    embedding: np.ndarray, scores: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, str], str]:
    """[n, d] -> x [n], y [n], what the axes are called, and how they were found."""
    size = embedding.shape[1]
    if size == 1:
        return embedding[:, 0], scores, ("embedding", "score"), "Across is the embedding, up is the score."
    if size == 2:
        x, y = embedding.T
        return x, y, ("dimension 0", "dimension 1"), "The axes are the embedding's two numbers."
    if umap := _umap():
        x, y = umap.UMAP(random_state=seed, n_jobs=1).fit_transform(embedding).T
        return x, y, ("UMAP 1", "UMAP 2"), "UMAP keeps neighbours together; distances between groups mean little."
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(embedding.T)))
    x, y = ((embedding - embedding.mean(axis=0)) @ axes[:, :-3:-1]).T
    first, second = variances[:-3:-1] / max(variances.sum(), np.finfo(np.float64).tiny)
    how = "PCA: the two directions in which embeddings vary most (UMAP is drawn where umap-learn is installed)."
    return x, y, (f"first axis, {first:.0%} of the variance", f"second axis, {second:.0%}"), how


def _umap() -> Any:
    """umap-learn's module where it is installed: nobody has to."""
    try:
        return importlib.import_module("umap.umap_")
    except ModuleNotFoundError:
        return None


def _by_label(labels: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and chosen rows of each label; of more than there are colours the rarest are one group."""
    found, counts = np.unique(labels, return_counts=True)
    kept = found[np.argsort(-counts, kind="stable")]
    kept = kept if len(kept) <= charts.COLOURS else kept[: charts.COLOURS - 1]
    groups = [(str(label), f"s{index}", labels == label) for index, label in enumerate(sorted(kept, key=_in_order))]
    return [("other labels", f"s{charts.COLOURS - 1}", ~np.isin(labels, kept)), *groups]


def _in_order(label: str) -> tuple[float, str]:
    """Numbers by size, before words."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _by_score(scores: np.ndarray, threshold: float) -> list[tuple[str, str, np.ndarray]]:
    middle, high = np.quantile(scores, (0.5, 0.9))
    anomalous = scores > threshold
    return [
        ("lower half of the scores", "s9", (scores <= middle) & ~anomalous),
        ("next two fifths", "s0", (scores > middle) & (scores <= high) & ~anomalous),
        ("highest tenth", "s3", (scores > high) & ~anomalous),
        ("above the threshold", "s1", anomalous),
    ]


def _activity(material: Material) -> Figure:
    size, order = material.manifest.embedding_size, material.by_activity[:_BARS]
    if material.manifest.prior is None:
        what, unit = "Variance", "variance"
        how = "How much each number varies over rows; one at 0 says the same of every row and could be left out."
    else:
        what, unit = "KL to the prior", "nats"
        how = "How many nats each dimension says of its row; one at 0 is the prior's noise and could be left out."
    active = scoring.active_units(torch.from_numpy(material.answers[EMBEDDING]))
    some = f" The {_BARS} most active are shown." if size > _BARS else ""
    return Figure(
        f"{what} of each dimension",
        charts.bars(
            material.activity[order],
            [f"dimension {dimension}" for dimension in order],
            "dimensions, the most active first",
            unit,
            f"{what} of each dimension of the embedding, in falling order",
        ),
        f"{how} {active:,} of {size:,} dimensions are active: their variance over rows is above 0.01.{some}",
    )


def _traversals(material: Material, dimensions: Sequence[int], steps: np.ndarray) -> np.ndarray:
    """[dimensions, steps, ...] in scaled units: one number of the embedding moves, the others are 0."""
    embedding = torch.zeros(len(dimensions), len(steps), material.manifest.embedding_size)
    for index, dimension in enumerate(dimensions):
        embedding[index, :, dimension] = torch.from_numpy(steps).float()
    decoded = material.autoencoder.decode(embedding.flatten(0, 1)).numpy()
    return decoded.reshape(*embedding.shape[:2], *decoded.shape[1:])


def _traversed_images(material: Material) -> list[Figure]:
    steps = np.linspace(-2.5, 2.5, 11)
    dimensions = material.by_activity[:_TRAVERSED].tolist()
    lanes = [
        Lane(f"dimension {dimension}, {material.activity[dimension]:.2f} nats", pictures.brightness(images))
        for dimension, images in zip(dimensions, _traversals(material, dimensions, steps), strict=True)
    ]
    drawn = torch.randn(_DRAWN, material.manifest.embedding_size, generator=material.generator())
    new = pictures.brightness(material.autoencoder.decode(drawn).numpy())
    return [
        Figure(
            "One dimension at a time",
            pictures.lanes(lanes, "Decoded while one dimension moves", [Head(f"{step:g}") for step in steps]),
            "Each line moves one dimension of the embedding from -2.5 to 2.5 standard deviations of the prior, all "
            "others at 0: what changes along the line is what this dimension says. The most active are on top; where "
            "nothing changes, nothing is said.",
            wide=True,
        ),
        Figure(
            "Drawn from the prior",
            pictures.lanes(pictures.folded(new, _ABREAST), "Decoded draws from the prior"),
            "Embeddings drawn from N(0, I) and decoded, which is what Generate answers. Those that look like no row of "
            "the data fell where the model has learned nothing.",
            wide=True,
        ),
    ]


def _traversed_windows(material: Material) -> list[Figure]:
    steps = np.linspace(-2, 2, 5)
    dimensions = material.by_activity[:_TRAVERSED_OF_TABLE].tolist()
    return windows.traversed(material, dimensions, steps, _traversals(material, dimensions, steps))


def _traversed_table(material: Material) -> Figure:
    names, steps = material.numbers, np.linspace(-2, 2, 5)
    dimensions = material.by_activity[:_TRAVERSED_OF_TABLE].tolist()
    decoded = _traversals(material, dimensions, steps)
    columns = np.sort(np.argsort(-np.ptp(decoded, axis=1).max(axis=0), kind="stable")[:TABLE_COLUMNS])
    largest = max(float(np.abs(decoded).max()), np.finfo(np.float32).tiny)
    blocks = [
        Block(
            f"dimension {dimension}, {material.activity[dimension]:.2f} nats",
            [f"{step:g}" for step in steps],
            values[:, columns] / largest,
        )
        for dimension, values in zip(dimensions, decoded, strict=True)
    ]
    some = f" The {len(columns)} columns that change most are shown." if len(columns) < len(names) else ""
    return Figure(
        "One dimension at a time",
        charts.heat(blocks, [names[column] for column in columns], "Decoded while one dimension moves"),
        "Each block moves one dimension of the embedding from -2 to 2 standard deviations of the prior, all others at "
        "0: columns whose colour changes down the block are what this dimension says. Warm is above the column's mean, "
        f"cool below, full colour is {largest:.2g} standard deviations.{some}",
        wide=True,
    )
