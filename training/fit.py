"""A training run, top to bottom: data -> splits -> scaling -> variant -> training -> export."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from hourglass.contract import layout
from hourglass.contract.manifest import FLOAT32, Precision
from hourglass.contract.schema import Schema
from training import checkpoint, data, devices, half_precision, mixed_precision, parallel, scores
from training.autoencoder import Autoencoder, find
from training.columns import described
from training.config import FitConfig, validated
from training.data import Dataset, Splits
from training.detection import in_one_line, lost
from training.errors import ConfigError, RunError
from training.export import Trained, export, false_alarm_rate
from training.graphs import Served
from training.networks import Architecture
from training.present import OfPresent
from training.progress import Progress
from training.report.learning import read_log
from training.run import Run
from training.scaling import Scaling
from training.scoring import Score
from training.trainer import EpochRecord, Training
from training.windows import overlap

CHECKPOINT_SECONDS = 5.0
_WIDTH = 100  # of a line that people read
_MANY_COPIES = 0.01  # of the rows
_REFERENCE_ROWS, _PASS_ROWS = 20_000, 1_024
# Of those that nobody chose.
_LARGEST_EMBEDDING, _LARGEST_WIDE_EMBEDDING = 32, 256


def fit(config: FitConfig, progress: Progress) -> Path:
    """Train and publish a new model; returns the published folder. Raises TrainingError, FileError."""
    mixed_precision.check(config.precision, devices.chosen(config.device))
    with progress.share("reading") as watch:
        dataset = load(config, watch)
    config = config.filled(dataset.row_shape)
    score(config, build(config, dataset.row_shape, dataset.schema))  # nor is a run begun that cannot be built
    _check_writable(config.exported)
    _describe(dataset, config, progress)
    run = Run.create(config, dataset)
    return _train_and_publish(run, dataset, progress)


def load(config: FitConfig, watch: Callable[[float], None] | None = None) -> Dataset:
    """The data, with missing cells where the variant can learn from such rows. Raises TrainingError."""
    variant = find(config.variant)
    options = validated(variant.options_class, config.options, f"{config.variant} option")  # before data are read
    return data.load(config, takes_missing=variant.learns_missing(options), watch=watch)


def _check_writable(exported: Path) -> None:
    """Raises ConfigError before hours of training, rather than after them."""
    existing = next(folder for folder in (exported, *exported.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--exported {exported}: {existing} is not a folder that can be written to")


def _describe(dataset: Dataset, config: FitConfig, progress: Progress) -> None:
    sizes = data.split(dataset, config.seed).sizes()
    shape = " × ".join(map(str, dataset.row_shape))
    found = dataset.inferred
    if found is not None and not found.is_plain:
        progress.show(described(found))
    drawn = dataset.total is not None and dataset.total > len(dataset.rows)
    rows = f"{len(dataset.rows):,} rows" + f", drawn at random from {dataset.total:,}," * drawn
    shown = f"columns: {', '.join(dataset.columns)}" if dataset.columns else "numbers"
    progress.say(textwrap.shorten(f"{rows} of {shape} {shown}", _WIDTH, placeholder=" …"))
    progress.say(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sizes.items()))
    for finding in dataset.findings:
        progress.warn(finding)
    if dataset.window is not None:
        return
    if counting := data.counting_column(dataset):
        progress.warn(f"column {counting!r} only counts the rows: --ignore {counting} leaves it out")
    if (copies := data.copies(dataset)) > _MANY_COPIES:
        progress.warn(
            f"{copies:.0%} of the rows are copies of others: unless fresh rows will be, too, leave them out, or the "
            "calibration rows look more ordinary than fresh ones and there will be more false alarms than asked"
        )


def resume(run: Run, progress: Progress) -> Path:
    """Continue a run exactly where its checkpoint was written, then publish. Raises TrainingError, FileError."""
    return _train_and_publish(run, _same_data(run), progress)


def follow(config: FitConfig, run: Run | None) -> None:
    """Train beside the process that leads, which does all else of `fit`, or of `resume` of a run.

    Raises TrainingError, FileError.
    """
    dataset = load(config) if run is None else _same_data(run)
    rows, early_stop = _scaled(dataset, config)
    with _begun(config, run, rows, dataset.schema) as training:
        training.run(rows, early_stop, lambda record: None)


def export_run(
    run: Run,
    checkpoint_file: Path | None,
    exported: Path | None,
    progress: Progress,
    computed_in: Precision = FLOAT32,
) -> Path:
    """Publish a checkpoint's best weights; returns the published folder. Raises TrainingError, FileError."""
    dataset, exported = _same_data(run), exported or run.config.exported
    return _publish(run, checkpoint_file or run.checkpoint, dataset, exported, progress, computed_in)


def build(config: FitConfig, row_shape: tuple[int, ...], schema: Schema | None = None) -> Autoencoder:
    """The untrained model, weights drawn from torch's global generator. Raises ConfigError.

    row_shape: of rows as they are served. schema: of a table's columns, which need not all be numeric.
    """
    variant = find(config.variant)
    options = validated(variant.options_class, config.options, f"{config.variant} option")
    column_of = None
    if schema is not None and not schema.is_numeric:
        column_of = tuple(column for column, _ in schema.expanded)
        row_shape = (len(column_of),)
    architecture = Architecture(
        row_shape,
        config.embedding_dim or _embedding_dim(config, row_shape, variant.wide),
        config.network,
        config.hidden,
        activation=config.hidden_activation,
        column_of=column_of,
        windowed=config.window is not None,
    )
    return variant(architecture, options)


def _embedding_dim(config: FitConfig, row_shape: tuple[int, ...], wide: bool) -> int:
    features = int(torch.Size(row_shape).numel())
    if wide:
        return min(_LARGEST_WIDE_EMBEDDING, 2 * features)
    # Of a table, or windows: a wide neck tells ordinary rows apart better, a narrow one cannot hold the anomalies of
    # mixed data.
    share = 2 if (len(row_shape) == 1 or config.window) and config.training_data == "clean" else 4
    return max(1, min(_LARGEST_EMBEDDING, features // share))


def score(config: FitConfig, model: Autoencoder) -> Score:
    """The one that was asked for, or the default; it has learned nothing yet. Raises ConfigError."""
    mixed, keeps_rows = config.training_data == "mixed", not config.no_examples
    chosen = scores.chosen(config.score, model, mixed=mixed, keeps_rows=keeps_rows)
    return OfPresent(chosen, model.architecture.columns) if model.takes_missing else chosen


@torch.no_grad()
def teach(served: Served, train: Tensor, early_stop: Tensor, *, robust: bool) -> None:
    """Let the score see reference rows, float32 [n, *row_shape] in input units: 20,000 of them at most."""

    def answer(scaled: Tensor) -> dict[str, Tensor]:
        parts = [served.autoencoder(part) for part in torch.split(scaled, _PASS_ROWS)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    # Whole rows that the score has learned score lower than others, and would seem to be favoured over masked ones.
    # Windows overlap, and so know each other anyway; the latest ones tell more: on the series of SKAB and NAB
    # (docs/series-benchmark.md) mean AUPRC 55 to 53 points in a trial with two seeds.
    apart = isinstance(served.score, OfPresent) and not served.autoencoder.architecture.windowed
    rows = train if apart else torch.cat([train, early_stop])
    drawn = torch.randperm(len(rows), generator=Generator().manual_seed(0))[:_REFERENCE_ROWS].sort().values
    scaled = served.scaling(rows[drawn])
    served.score.learn(scaled, answer(scaled), robust)
    if isinstance(served.score, OfPresent):
        served.score.level(served.scaling(early_stop), answer)


def _same_data(run: Run) -> Dataset:
    dataset = load(run.config)
    if dataset.sha256 != run.data_sha256:
        raise RunError(f"{run.config.data}: the rows are not those that {run.folder} began with: fit anew")
    return dataset


def _train_and_publish(run: Run, dataset: Dataset, progress: Progress) -> Path:
    rows, early_stop = _scaled(dataset, run.config)
    train(run, rows, early_stop, progress, dataset.schema)
    return _publish(run, run.checkpoint, dataset, run.config.exported, progress)


def _scaled(dataset: Dataset, config: FitConfig) -> tuple[Tensor, Tensor]:
    """Training and early-stop rows."""
    splits = data.split(dataset, config.seed)
    scaling = Scaling.of(splits.train, dataset.schema, missing=True)
    return scaling(splits.train), scaling(splits.early_stop)


def train(run: Run, rows: Tensor, early_stop: Tensor, progress: Progress, schema: Schema | None = None) -> None:
    """From the run's checkpoint, or the beginning when it has none, to the end; leaves the last checkpoint.

    rows, early_stop: float32 [n, *row_shape] in scaled units, those of a table with this schema. Raises TrainingError.
    """
    with _begun(run.config, run, rows, schema) as training, progress.training(run) as show:
        run.forget_after(training.epoch)
        written = time.monotonic()

        def after_epoch(record: EpochRecord) -> None:
            nonlocal written
            run.record(record)
            show(record)
            if time.monotonic() - written >= CHECKPOINT_SECONDS:
                checkpoint.write(run.checkpoint, training)
                written = time.monotonic()

        training.run(rows, early_stop, after_epoch)
        checkpoint.write(run.checkpoint, training)


@contextmanager
def _begun(config: FitConfig, run: Run | None, rows: Tensor, schema: Schema | None) -> Iterator[Training]:
    """At the run's checkpoint, or the beginning when it has none."""
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, tuple(rows.shape[1:]), schema), config)
        if run is not None and run.checkpoint.exists():
            checkpoint.resume(run.checkpoint, training)
        with parallel.joined(training.device):
            yield training


def _publish(
    run: Run,
    checkpoint_file: Path,
    dataset: Dataset,
    exported: Path,
    progress: Progress,
    computed_in: Precision = FLOAT32,
) -> Path:
    config = run.config
    trained = learned(run, checkpoint_file, dataset, data.split(dataset, config.seed))
    trained = replace(trained, precision=computed_in)
    rows = len(trained.splits.calibration)
    if (rate := false_alarm_rate(config.false_alarm_rate, rows)) > config.false_alarm_rate:
        asked = f"a false-alarm rate of {config.false_alarm_rate:g}"
        progress.warn(f"{rows} calibration rows cannot promise {asked}: using the smallest they can, {rate:.3g}")
    if dataset.window is not None and dataset.starts is not None:
        calibrating = dataset.starts[-rows:]
        if overlaps := overlap(calibrating, dataset.window.length, config.false_alarm_rate):
            progress.warn(f"{overlaps}: hourglass-train calibrate")
    if config.training_data == "mixed":
        progress.warn(
            "the calibration rows hold the same anomalies as the training rows: ask for a false-alarm rate of at least "
            "their share, or recalibrate on clean rows with hourglass-train calibrate"
        )
    with progress.step("exporting"):
        folder = export(trained, exported)
    provenance = layout.read(exported, config.name, int(folder.name)).manifest.provenance
    if half := provenance.half_precision:
        progress.say(half_precision.in_one_line(half))
    if found := provenance.detection:
        progress.say(in_one_line(found))
        if loses := lost({method: values["auroc"] for method, values in found.methods.items()}):
            progress.warn(loses)
    return folder


def learned(run: Run, checkpoint_file: Path, dataset: Dataset, splits: Splits) -> Trained:
    """What a checkpoint's best weights make of the run. Raises RunError."""
    model = build(run.config, dataset.row_shape, dataset.schema)
    best_epoch = checkpoint.load_best(checkpoint_file, model)
    scaling = Scaling.of(splits.train, dataset.schema, missing=model.takes_missing)
    served = Served(scaling, model.eval(), score(run.config, model))
    teach(served, splits.train, splits.early_stop, robust=run.config.training_data == "mixed")
    return Trained(run.config, served, dataset, splits, best_epoch, read_log(run.log))
