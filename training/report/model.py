"""The report beside an exported model: what it repeats, how it learned, what its numbers mean, what it cost."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor, nn

from hourglass.contract.manifest import (
    EMBEDDING,
    EMBEDDING_STDDEV,
    FEATURE_ERROR,
    RECONSTRUCTION,
    SCORE,
    Manifest,
)
from training import noise, scoring
from training.errors import RunError
from training.likelihoods import standard_normal_kl
from training.noise import Damaged
from training.report import charts, pictures
from training.report.charts import Block, Series
from training.report.labels import calibration_labels
from training.report.page import Figure, Page, Section, facts
from training.report.pictures import Head, Lane
from training.trainer import EpochRecord

if TYPE_CHECKING:
    from training.export import Trained

_IMAGES, _TABLE_ROWS = 10, 6
_TABLE_COLUMNS = 32
_SPREADS = 3.0  # of a table's column: full warmth
_DIFFERENCE = 0.5  # of an image's range: full warmth
_MASKED = 0.25
_POINTS = 2000
_DIMENSIONS = 200  # bars
_ERRORS = 20
_TRAVERSED, _TRAVERSED_OF_TABLE = 10, 4
_FROM_PRIOR = 20
_FILTERS, _FILTERS_ABREAST = 48, 16
_CURVES = 32


@runtime_checkable
class Corrupting(Protocol):
    """A variant that damages rows itself."""

    def corrupt(self, rows: Tensor, generator: Generator) -> Damaged: ...


def read_log(path: Path) -> list[EpochRecord]:
    """The epochs that a run's log.jsonl has; none when there is no log. Raises RunError.

    A last line without its end, of a run that the power left, is no epoch.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            try:
                records.append(EpochRecord(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise RunError(f"{path}, line {number}: not an epoch's record: {error}") from None
    return records


@torch.inference_mode()
def render(trained: Trained, manifest: Manifest, answers: Mapping[str, np.ndarray]) -> str:
    """The page. answers: of model.onnx to all calibration rows, in order. The model is in evaluation mode."""
    model = _Model(trained, manifest, answers)
    sections = (
        _repeated(model),
        _training(model),
        _embedding(model),
        _generated(model),
        _score(model),
        _filters(model),
        _cost(model),
    )
    sizes, neck = _layer_sizes(model)
    return Page(
        title=trained.config.name,
        subtitle=f"A {manifest.variant} autoencoder: {trained.served.autoencoder.summary}.",
        facts=_headline(model),
        sections=[section for section in sections if section],
        emblem=charts.silhouette(sizes, neck, f"The layers' sizes: {', '.join(f'{size:,}' for size in sizes)}"),
        footer=f"Made by hourglass-train {manifest.provenance.versions['hourglass-serving']} on "
        f"{manifest.provenance.created:%Y-%m-%d}. The numbers are in manifest.json, words in README.md.",
    ).html()


@dataclass(frozen=True)
class _Model:
    trained: Trained
    manifest: Manifest
    answers: Mapping[str, np.ndarray]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.trained.dataset.row_shape

    @property
    def is_table(self) -> bool:
        return self.trained.dataset.columns is not None

    @property
    def examples(self) -> bool:
        """Whether pictures may show single rows."""
        return not self.trained.config.no_examples

    @property
    def threshold(self) -> float:
        calibration = self.manifest.calibration
        return calibration.threshold(calibration.false_alarm_rate)

    @cached_property
    def calibration(self) -> Tensor:
        """float32 [n, *row_shape] in scaled units."""
        scaled: Tensor = self.trained.served.scaling(self.trained.splits.calibration)
        return scaled

    @cached_property
    def activity(self) -> np.ndarray:
        """[embedding_size]: the KL of each dimension in nats where there is a prior, else its variance."""
        embedding = torch.from_numpy(self.answers[EMBEDDING])
        if self.manifest.prior is None:
            return embedding.var(dim=0, correction=0).numpy()
        log_variance = 2 * torch.from_numpy(self.answers[EMBEDDING_STDDEV]).log()
        return standard_normal_kl(embedding, log_variance).mean(dim=0).numpy()

    @cached_property
    def by_activity(self) -> np.ndarray:
        """The embedding's dimensions, the most active first."""
        return np.argsort(-self.activity, kind="stable")

    def generator(self) -> Generator:
        return Generator().manual_seed(self.trained.config.seed)

    def score_text(self, score: float) -> str:
        return charts.number(float(f"{score:.3g}"))


def _headline(model: _Model) -> dict[str, str]:
    manifest, trained = model.manifest, model.trained
    provenance, architecture = manifest.provenance, trained.served.autoencoder.architecture
    rows = provenance.rows
    widths = [*architecture.widths, manifest.embedding_size]
    return {
        "variant": manifest.variant,
        "embedding": f"{manifest.embedding_size:,} numbers",
        "network": f"{architecture.network}, {' → '.join(map(str, widths))}",
        "data": f"{provenance.data}, {sum(rows.values()):,} rows of {_shape(model.row_shape)}",
        "rows": " · ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in rows.items()),
        "seed": str(provenance.seed),
        "best epoch": f"{trained.best_epoch} of {len(trained.epochs) or '?'}",
        "score": manifest.score.name.replace("_", " "),
        "threshold": f"{charts.number(model.threshold)} at {_rate(model)} false alarms",
    }


def _repeated(model: _Model) -> Section:
    damage = "as in training" if isinstance(model.trained.served.autoencoder, Corrupting) else "a quarter masked"
    title = "What comes back"
    if not model.examples:
        return Section(title, "This model was made with --no-examples: no picture on this page shows a single row.")
    scores = model.answers[SCORE]
    most = _TABLE_ROWS if model.is_table else _IMAGES
    ranks = np.linspace(0, len(scores) - 1, min(most, len(scores))).round().astype(int)
    shown = np.argsort(scores, kind="stable")[ranks]
    rows = model.calibration[torch.from_numpy(shown)]
    scaling, autoencoder = model.trained.served.scaling, model.trained.served.autoencoder
    reconstructed = _scaled(model, model.answers[RECONSTRUCTION][shown])
    if isinstance(autoencoder, Corrupting):
        damaged = autoencoder.corrupt(rows, model.generator())
    else:
        damaged = noise.masking(rows, _MASKED, model.generator())
    damaged_rows = damaged.rows.clamp(scaling.low, scaling.high)
    repaired: Tensor = autoencoder(damaged_rows)[RECONSTRUCTION]
    text = (
        f"{len(shown)} calibration rows, which training never saw, from the most ordinary to the most anomalous score. "
        f"Damaged rows ({damage}) show what the model repairs."
    )
    draw = _repeated_table if model.is_table else _repeated_images
    where = damaged.where.expand(rows.shape)
    return Section(title, text, [draw(model, shown, rows, reconstructed, damaged_rows, where, repaired)])


def _repeated_images(
    model: _Model,
    shown: np.ndarray,
    rows: Tensor,
    reconstructed: Tensor,
    damaged: Tensor,
    _where: Tensor,
    repaired: Tensor,
) -> Figure:
    scores = model.answers[SCORE][shown]
    lanes = [
        Lane("input", pictures.brightness(rows.numpy())),
        Lane("reconstructed", pictures.brightness(reconstructed.numpy())),
        Lane("difference", pictures.warmth((rows - reconstructed).numpy() / _DIFFERENCE)),
        Lane("damaged", pictures.brightness(damaged.numpy())),
        Lane("repaired", pictures.brightness(repaired.numpy())),
    ]
    heads = [Head(model.score_text(score), "warn" if score > model.threshold else "") for score in scores]
    return Figure(
        "Input and reconstruction",
        pictures.lanes(lanes, "Rows from ordinary to anomalous", heads, "score"),
        "A good model repeats ordinary rows on the left and fails on strange ones on the right. In the difference, "
        "warm is what the reconstruction lost and cool what it made up; full colour is half the range of the data. "
        "Repaired is what the model makes of the damaged row: it has not seen the clean one. Scores above the "
        "threshold stand out.",
        wide=True,
    )


def _repeated_table(
    model: _Model,
    shown: np.ndarray,
    rows: Tensor,
    reconstructed: Tensor,
    damaged: Tensor,
    where: Tensor,
    repaired: Tensor,
) -> Figure:
    columns = np.sort(np.argsort(-_column_errors(model), kind="stable")[:_TABLE_COLUMNS])
    names = model.trained.dataset.columns or ()
    blocks = []
    for index, row in enumerate(shown):
        score = float(model.answers[SCORE][row])
        values = torch.stack([rows[index], reconstructed[index], damaged[index], repaired[index]])[:, columns]
        marks = torch.zeros_like(values, dtype=torch.bool)
        marks[2] = where[index, columns] & ~where.all()
        blocks.append(
            Block(
                f"score {model.score_text(score)}",
                ("input", "reconstructed", "damaged", "repaired"),
                values.numpy() / _SPREADS,
                marks.numpy(),
                "warn" if score > model.threshold else "label",
            )
        )
    some = f"The {len(columns)} columns with the largest errors are shown. " if len(columns) < len(names) else ""
    return Figure(
        "Input and reconstruction",
        charts.heat(blocks, [names[column] for column in columns], "Rows as warmth, from ordinary to anomalous"),
        "Each block is one row, a cell is one column: warm is above the column's mean, cool below, full colour is "
        f"{_SPREADS:g} standard deviations or more. Compare reconstructed with input: where colours differ, the score "
        f"comes from. Crosses mark damaged cells. {some}Scores above the threshold stand out.",
        wide=True,
    )


def _training(model: _Model) -> Section:
    epochs = model.trained.epochs
    if not epochs:
        return Section("How it learned", "The run has no log: there is nothing to draw.")
    best = (float(model.trained.best_epoch), f"best: epoch {model.trained.best_epoch}")
    at = np.array([record.epoch for record in epochs], np.float64)
    changed = [False, *(one.early_stop.keys() != two.early_stop.keys() for one, two in pairwise(epochs))]
    train = np.where(changed, np.nan, [sum(record.train.values()) for record in epochs])
    early_stop = np.where(changed, np.nan, [record.early_stop_loss for record in epochs])
    figures = [
        Figure(
            "Loss",
            charts.lines(
                [Series("train", "line s0", at, train), Series("early stop", "line s1", at, early_stop)],
                "epoch",
                "loss per row",
                "Loss by epoch, on training rows and on held-out rows",
                best,
            ),
            "What is minimised, summed over features and averaged over rows. Both falling: it learns. Train falling "
            "while early stop rises: it learns by heart. The weights of the best epoch are the ones exported.",
        )
    ]
    names = list(dict.fromkeys(name for record in epochs for name in record.early_stop))
    if len(names) > 1:
        parts = [
            Series(_words(name), f"line s{index % charts.COLOURS}", at, _values(epochs, "early_stop", name))
            for index, name in enumerate(names)
        ]
        figures.append(
            Figure(
                "Parts of the loss",
                charts.lines(parts, "epoch", "early-stop loss per row", "Each part of the loss by epoch", best),
                "The terms whose sum is the early-stop loss, or, where training has phases, what each of them "
                "minimises.",
            )
        )
    if kl := _kl_curves(epochs, at):
        figures.append(kl)
    text = "One pass over the training rows is an epoch; early-stop rows are never trained on."
    return Section("How it learned", text, figures, _monitors(epochs, at))


def _kl_curves(epochs: Sequence[EpochRecord], at: np.ndarray) -> Figure | None:
    """Lists in the records: one faint line for each number."""
    for name in epochs[-1].monitor:
        curves = [value for record in epochs if isinstance(value := record.monitor.get(name), list)]
        if len(curves) == len(epochs):
            values = np.array(curves)
            chosen = np.argsort(-values[-1], kind="stable")[:_CURVES]
            series = [Series(f"dimension {index}", "thin s0", at, values[:, index]) for index in chosen]
            return Figure(
                _words(name).capitalize(),
                charts.lines(series, "epoch", _words(name), "One line for each dimension of the embedding", key=False),
                "One line for each dimension of the embedding. Those that rise are learning something of the rows; "
                "those at the bottom are not used.",
            )
    return None


def _monitors(epochs: Sequence[EpochRecord], at: np.ndarray) -> list[Figure]:
    """A small chart for each number that was recorded and changed; those of one stem share it."""
    stems: dict[str, list[str]] = {}
    for name, value in epochs[-1].monitor.items():
        if not isinstance(value, list):
            stems.setdefault(re.sub(r"_(min|mean|max)$", "", name), []).append(name)
    figures = []
    for stem, names in stems.items():
        series = [
            Series(_words(name.removeprefix(stem)), f"line s{index}", at, _values(epochs, "monitor", name))
            for index, name in enumerate(names)
        ]
        if any(np.nanmin(one.y) < np.nanmax(one.y) for one in series):
            figures.append(_small(_words(stem), series))
    speed = np.array([record.rows_per_second for record in epochs])
    rate = np.array([record.learning_rate for record in epochs])
    figures.append(_small("learning rate", [Series("", "line s0", at, rate)]))
    figures.append(_small("rows per second", [Series("", "line s0", at, speed)]))
    return figures


def _small(title: str, series: Sequence[Series]) -> Figure:
    last = ", ".join(f"{one.name} {charts.number(float(one.y[-1]))}".strip() for one in series)
    return Figure(title, charts.lines(series, "", "", f"{title} by epoch", small=True), f"in the end {last}")


def _embedding(model: _Model) -> Section:
    figures = [_scatter(model)] if model.examples else []
    size = model.manifest.embedding_size
    order = model.by_activity[:_DIMENSIONS]
    some = f" The {_DIMENSIONS} most active of {size:,} are shown." if size > _DIMENSIONS else ""
    active = scoring.active_units(torch.from_numpy(model.answers[EMBEDDING]))
    prior = model.manifest.prior is not None
    what, label = ("KL to the prior", "nats") if prior else ("Variance", "variance")
    how = (
        "How many nats each dimension says of its row; a dimension at 0 is the prior's noise and could be left out."
        if prior
        else "How much each dimension varies over rows; one at 0 says the same of every row and could be left out."
    )
    figures.append(
        Figure(
            f"{what} of each dimension",
            charts.bars(
                model.activity[order],
                [f"dimension {index}" for index in order],
                "dimensions, the most active first",
                label,
                f"{what} of each dimension of the embedding, in falling order",
                scoring._ACTIVE_VARIANCE,
            ),
            f"{how} {active:,} of {size:,} are active: their variance is above {scoring._ACTIVE_VARIANCE:g}.{some}",
        )
    )
    return Section("The embedding", f"What the model keeps of a row: {size:,} numbers.", figures)


def _scatter(model: _Model) -> Figure:
    embedding = model.answers[EMBEDDING][:_POINTS].astype(np.float64)
    scores = model.answers[SCORE][:_POINTS]
    x, y, names, how = _projected(embedding, scores, model.trained.config.seed)
    labels = calibration_labels(model.trained.config, model.trained.dataset)
    if labels is not None and len(set(labels)) > 1:
        groups = _by_label(labels[:_POINTS])
        meaning = f"Colours are the labels in {model.trained.config.label!r}, which the model never saw."
    else:
        groups = _by_score(scores, model.threshold)
        meaning = "Colours are scores: anomalies should lie apart from the crowd."
    series = [Series(name, css, x[chosen], y[chosen]) for name, css, chosen in groups if chosen.any()]
    return Figure(
        "Rows by their embedding",
        charts.scatter(series, *names, "Calibration rows, each a dot at its embedding"),
        f"Each dot is one of {len(x):,} calibration rows: near ones are alike to the model. {how} {meaning} "
        "The few that lie far outside are drawn on the edge.",
    )


def _projected(
    embedding: np.ndarray, scores: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, str], str]:
    """x, y, the axes' names, and how they were found."""
    size = embedding.shape[1]
    if size == 1:
        return embedding[:, 0], scores, ("embedding", "score"), "Across is the embedding, up is the score."
    if size == 2:
        names = ("embedding, dimension 0", "embedding, dimension 1")
        return embedding[:, 0], embedding[:, 1], names, "The axes are the embedding's two numbers."
    if umap := _umap():
        x, y = umap.UMAP(random_state=seed, n_jobs=1).fit_transform(embedding).T
        return x, y, ("UMAP 1", "UMAP 2"), "UMAP keeps neighbours together; distances between groups mean little."
    variances, axes = np.linalg.eigh(np.cov(embedding.T))
    x, y = ((embedding - embedding.mean(axis=0)) @ axes[:, :-3:-1]).T
    first, second = variances[:-3:-1] / max(variances.sum(), np.finfo(np.float64).tiny)
    how = "PCA: the two directions in which embeddings vary most (with umap-learn installed, UMAP is drawn instead)."
    return x, y, (f"first axis, {first:.0%} of the variance", f"second axis, {second:.0%}"), how


def _umap() -> Any:
    """The module of umap-learn where it is installed: it takes seconds, and nothing here needs it."""
    try:
        return importlib.import_module("umap")
    except ModuleNotFoundError:
        return None


def _by_label(labels: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and chosen rows of each label; when there are more than colours, the rarest are one group."""
    found, counts = np.unique(labels, return_counts=True)
    kept = found[np.argsort(-counts, kind="stable")]
    kept = kept if len(kept) <= charts.COLOURS else kept[: charts.COLOURS - 1]
    groups = [(label, f"s{index}", labels == label) for index, label in enumerate(sorted(kept, key=_number_first))]
    rest = ~np.isin(labels, kept)
    return [("other labels", f"s{charts.COLOURS - 1}", rest), *groups]


def _number_first(label: str) -> tuple[float, str]:
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


def _generated(model: _Model) -> Section | None:
    if model.manifest.prior is None:
        return None
    draw = _traversed_table if model.is_table else _traversed_images
    return Section(
        "What the embedding says",
        "The prior is N(0, I): every embedding near 0 decodes to something. No row of the data is among these.",
        draw(model),
    )


def _traversals(model: _Model, dimensions: Sequence[int], steps: np.ndarray) -> Tensor:
    """[dimensions, steps, *row_shape]: one number of the embedding moves, the others are 0; scaled units."""
    embedding = torch.zeros(len(dimensions), len(steps), model.manifest.embedding_size)
    for index, dimension in enumerate(dimensions):
        embedding[index, :, dimension] = torch.from_numpy(steps).float()
    decoded = model.trained.served.autoencoder.decode(embedding.flatten(0, 1))
    return decoded.reshape(*embedding.shape[:2], *model.row_shape)


def _traversed_images(model: _Model) -> list[Figure]:
    steps = np.linspace(-2.5, 2.5, 11)
    dimensions = model.by_activity[:_TRAVERSED].tolist()
    decoded = _traversals(model, dimensions, steps).numpy()
    lanes = [
        Lane(f"dimension {dimension}, {model.activity[dimension]:.2f} nats", pictures.brightness(images))
        for dimension, images in zip(dimensions, decoded, strict=True)
    ]
    drawn = torch.randn(_FROM_PRIOR, model.manifest.embedding_size, generator=model.generator())
    new = pictures.brightness(model.trained.served.autoencoder.decode(drawn).numpy())
    return [
        Figure(
            "One dimension at a time",
            pictures.lanes(lanes, "Decoded while one dimension moves", [Head(f"{step:+.1f}") for step in steps]),
            "Each line moves one dimension of the embedding from -2.5 to 2.5 standard deviations of the prior, all "
            "others at 0: what changes along the line is what this dimension says. The most active are on top; a line "
            "that does not change is not used.",
            wide=True,
        ),
        Figure(
            "Drawn from the prior",
            pictures.lanes([Lane("", half) for half in np.split(new, 2)], "Decoded draws from the prior"),
            "Embeddings drawn from N(0, I) and decoded, as Generate answers. What looks like no row of the data shows "
            "where the embedding has holes.",
            wide=True,
        ),
    ]


def _traversed_table(model: _Model) -> list[Figure]:
    steps = np.linspace(-2, 2, 5)
    dimensions = model.by_activity[:_TRAVERSED_OF_TABLE].tolist()
    decoded = _traversals(model, dimensions, steps).numpy()
    columns = np.sort(np.argsort(-np.ptp(decoded, axis=1).max(axis=0), kind="stable")[:_TABLE_COLUMNS])
    names = model.trained.dataset.columns or ()
    blocks = [
        Block(f"dim. {dimension}", [f"{step:+g}" for step in steps], values[:, columns] / _SPREADS)
        for dimension, values in zip(dimensions, decoded, strict=True)
    ]
    some = f" The {len(columns)} columns that change most are shown." if len(columns) < len(names) else ""
    return [
        Figure(
            "One dimension at a time",
            charts.heat(blocks, [names[column] for column in columns], "Decoded while one dimension moves"),
            "Each block moves one dimension of the embedding from -2 to 2 standard deviations of the prior, all others "
            "at 0: columns whose colour changes down the block are what this dimension says. Warm is above the "
            f"column's mean, cool below, full colour is {_SPREADS:g} standard deviations.{some}",
            wide=True,
        )
    ]


def _score(model: _Model) -> Section:
    scores, calibration = model.answers[SCORE], model.manifest.calibration
    figures = [
        Figure(
            "Scores of calibration rows",
            charts.histogram(
                scores,
                model.manifest.score.name.replace("_", " "),
                f"How often which score comes, with the threshold at {charts.number(model.threshold)}",
                (model.threshold, f"threshold {charts.number(model.threshold)}"),
            ),
            f"Rows beyond the line are called anomalies: {_rate(model)} of ordinary rows or fewer. A long tail on the "
            "right is rows the model cannot repeat: worth a look before the model is trusted.",
        ),
        _column_error_figure(model) if model.is_table else _pixel_error_figure(model),
    ]
    metrics = {_words(name): charts.number(value) for name, value in model.manifest.provenance.metrics.items()}
    del metrics["best epoch"]
    figures.append(
        Figure("Metrics", facts(metrics), "On the calibration rows, in scaled units.", wide=True),
    )
    text = (
        f"{model.manifest.score.formula}; higher is more anomalous. Calibrated on {calibration.rows:,} rows that "
        "neither training nor early stopping saw."
    )
    return Section("The score", text[0].upper() + text[1:], figures)


def _column_errors(model: _Model) -> np.ndarray:
    mean: np.ndarray = model.answers[FEATURE_ERROR].mean(axis=0, dtype=np.float64)
    return mean


def _column_error_figure(model: _Model) -> Figure:
    errors, names = _column_errors(model), model.trained.dataset.columns or ()
    worst = np.argsort(-errors, kind="stable")[:_ERRORS]
    some = f" The {_ERRORS} largest of {len(names):,} are shown." if len(names) > _ERRORS else ""
    return Figure(
        "Error of each column",
        charts.named_bars(
            errors[worst],
            [names[column] for column in worst],
            "mean feature_error",
            "The mean error of each column, largest first",
        ),
        f"{_sentence(model.trained.served.score.feature_error)}, averaged over calibration rows. Columns on top "
        f"are hard to tell from the others: noise, or the only ones of their kind.{some}",
    )


def _pixel_error_figure(model: _Model) -> Figure:
    errors = _column_errors(model)
    largest = max(float(np.abs(errors).max()), np.finfo(np.float64).tiny)
    return Figure(
        "Where the error is",
        pictures.lanes([Lane("", pictures.warmth(errors[None] / largest))], "The mean error of each pixel"),
        f"{_sentence(model.trained.served.score.feature_error)}, averaged over calibration rows; full colour is "
        f"{charts.number(largest)}. Warm is where the model is most often wrong.",
    )


def _filters(model: _Model) -> Section | None:
    """What the first layer looks for, where its weights are pictures."""
    if model.is_table:
        return None
    encoder = model.trained.served.autoencoder.encoder
    first = next((module for module in encoder.modules() if isinstance(module, nn.Linear | nn.Conv2d)), None)
    if isinstance(first, nn.Conv2d):
        weights = first.weight.detach().permute(0, 2, 3, 1).numpy()
        what = "kernels of the first convolution"
    elif isinstance(first, nn.Linear) and first.in_features == np.prod(model.row_shape):
        weights = first.weight.detach().reshape(-1, *model.row_shape).numpy()
        what = "units of the first layer"
    else:
        return None
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    shown = weights[np.argsort(-norms, kind="stable")[:_FILTERS]]
    shown = shown / np.maximum(np.abs(shown).max(axis=tuple(range(1, shown.ndim)), keepdims=True), 1e-12)
    tiles = pictures.warmth(shown)
    tiles = np.pad(tiles, ((0, -len(tiles) % _FILTERS_ABREAST), (0, 0), (0, 0), (0, 0)))
    lanes = [Lane("", part) for part in np.split(tiles, len(tiles) // _FILTERS_ABREAST)]
    averaged = " Colour channels are averaged." if shown.ndim == 4 and shown.shape[3] > 1 else ""
    return Section(
        "Filters",
        "The weights between a row and the first layer, as pictures of what they look for.",
        [
            Figure(
                "First layer",
                pictures.lanes(lanes, "Weights of the first layer"),
                f"The {min(len(weights), _FILTERS)} largest of {len(weights):,} {what}, each in its own range: warm "
                "pixels excite the unit, cool ones silence it. Strokes, blobs and edges are features; plain noise is "
                f"a unit that learned nothing.{averaged}",
                wide=True,
            )
        ],
    )


def _cost(model: _Model) -> Section:
    trained, manifest = model.trained, model.manifest
    epochs, versions = trained.epochs, manifest.provenance.versions
    training: dict[str, str] = {}
    if epochs:
        rows = manifest.provenance.rows["train"]
        seconds = sum(rows / record.rows_per_second for record in epochs)
        speed = float(np.median([record.rows_per_second for record in epochs]))
        training = {
            "training": _duration(seconds),
            "epochs": f"{len(epochs):,} of at most {trained.config.epochs:,}",
            "speed": f"{speed:,.0f} rows/s",
        }
    parameters = sum(parameter.numel() for parameter in trained.served.autoencoder.parameters())
    files = {name: _size(entry.bytes) for name, entry in manifest.files.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, {torch.get_num_threads()} torch threads"
    return Section(
        "What it cost",
        "Time is that of the epochs in the run's log; the machine is the one that exported.",
        [
            Figure(
                "Bill",
                facts({**training, "parameters": f"{parameters:,}", **files, "machine": machine, **versions}),
                "A row costs about two operations for each parameter of a fully connected network.",
                wide=True,
            )
        ],
    )


def _layer_sizes(model: _Model) -> tuple[list[int], int]:
    """Numbers of a row after each layer that has weights, and which of them is the embedding."""
    autoencoder = model.trained.served.autoencoder
    there = _sizes_through(autoencoder.encoder, model.calibration[:1])[:-1]
    back = _sizes_through(autoencoder.decoder, torch.zeros(1, model.manifest.embedding_size))[:-1]
    row = int(np.prod(model.row_shape))
    return [row, *there, model.manifest.embedding_size, *back, row], len(there) + 1


def _sizes_through(network: nn.Module, rows: Tensor) -> list[int]:
    layers = network if isinstance(network, nn.Sequential) else [network]
    sizes = []
    for layer in layers:
        rows = layer(rows)
        if any(True for _ in layer.parameters()):
            sizes.append(rows[0].numel())
    return sizes


def _scaled(model: _Model, reconstruction: np.ndarray) -> Tensor:
    """Input units -> scaled units, not clipped."""
    scaling = model.trained.served.scaling
    return (torch.from_numpy(reconstruction) - scaling.shift) / scaling.scale


def _values(epochs: Sequence[EpochRecord], group: str, name: str) -> np.ndarray:
    """[epochs]: NaN where an epoch has no such number."""
    found = [getattr(record, group).get(name, np.nan) for record in epochs]
    return np.array(found, np.float64)


def _words(name: str) -> str:
    return name.replace("_", " ").strip()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _shape(row_shape: tuple[int, ...]) -> str:
    shape = " × ".join(map(str, row_shape))
    return f"{shape} {'columns' if len(row_shape) == 1 else 'numbers'}"


def _rate(model: _Model) -> str:
    return f"{100 * model.manifest.calibration.false_alarm_rate:.3g} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"
