"""hourglass-train calibrate: a published model, its threshold from other rows, as a new version. Nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hourglass.contract import layout
from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import CLIPPED, EMBEDDING, MODEL, SCORE, Manifest, Recalibration
from hourglass.contract.quantization import Quantizations
from training import card
from training.data import Dataset
from training.errors import ConfigError, DataError
from training.evaluation.published import Published, open_model
from training.evaluation.rows import Data, read
from training.export import README, REPORT, upper_bounds
from training.false_alarms import percent
from training.progress import Progress
from training.report import recalibration
from training.windows import overlap


def recalibrate(
    folder: Path, *, source: str, label: str | None, exclude: Sequence[str], rate: float | None, progress: Progress
) -> Path:
    """Publish exported/NAME[/VERSION] with the calibration of `source` as a new version, the returned folder: relative
    where `folder` is.

    source: as --data of a fit; rows that trained the model are left out. label, exclude: rows whose `label` is one of
    `exclude` are left out too. rate: None for the model's own. Raises TrainingError.
    """
    if exclude and label is None:
        raise ConfigError("--exclude-label needs --label COLUMN: the column to look at")
    model = open_model(folder)
    before = model.manifest.calibration
    rate = before.false_alarm_rate if rate is None else rate
    with progress.step("reading"):
        data = _normal(read(source, model.manifest, label, exclude), exclude, progress)
    _check_enough(data, rate)
    if data.starts is not None and (overlaps := overlap(data.starts, model.manifest.row_shape[0], rate)):
        progress.warn(overlaps)
    with progress.step("scoring"):
        answers = _answers(model, data)
    scores = answers[SCORE]
    calibration = Calibration.from_scores(
        upper_bounds(scores, model.manifest.precision, model.manifest.tolerance[SCORE]), rate
    )
    manifest = _manifest(model, data, calibration, answers[EMBEDDING])
    manifest = manifest.with_sketch(data.rows, scores, answers[CLIPPED])
    root = model.folder.parent.parent
    files = layout.read(root, model.name, model.version, tuple(model.manifest.files)).files
    version = layout.versions(root, model.name)[0] + 1

    def write(draft: Path) -> None:
        for file, content in files.items():
            (draft / file).write_bytes(content)
        text = card.recalibrated(model.name, version, root.name, manifest, before)
        (draft / README).write_text(text, encoding="utf-8")
        page = recalibration.render(model.name, version, manifest, before, scores)
        (draft / REPORT).write_text(page, encoding="utf-8")
        (draft / layout.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")

    published = layout.publish(root, model.name, write)
    _tell(before, calibration, scores, progress)
    return published if folder.is_absolute() else Path(os.path.relpath(published))


def _normal(data: Data, exclude: Sequence[str], progress: Progress) -> Data:
    """The rows to calibrate with. Raises DataError."""
    if data.fitted_rows == "included":
        raise DataError(
            f"{data.source}: the model was fitted on these rows, and which of them trained it is not known: "
            "calibrate with others"
        )
    excluded = data.excluded | data.labels.among(exclude, data.source) if data.labels and exclude else data.excluded
    normal = data.take(~excluded)
    trained = data.read - len(data.rows)
    reasons = {"that trained the model or stopped it": trained, "whose label is excluded": int(excluded.sum())}
    left_out = "".join(f", {count:,} {why} left out" for why, count in reasons.items() if count)
    progress.say(f"{len(normal.rows):,} rows of {data.source}{left_out}")
    return normal


def _check_enough(data: Data, rate: float) -> None:
    """Raises DataError."""
    n = len(data.rows)
    if (n + 1) * rate * (1 + 1e-12) < 1:
        least = int(np.ceil(1 / rate * (1 - 1e-12))) - 1
        raise DataError(
            f"{data.source}: {n:,} rows cannot promise a false-alarm rate of {rate:g}: at least {least:,} are needed, "
            f"or a --false-alarm-rate of {np.ceil(1e6 / (n + 1)) / 1e6:g}"
        )


def _answers(model: Published, data: Data) -> dict[str, np.ndarray]:
    """Of each row. Raises DataError."""
    answers = model.graphs[MODEL].run_all(data.rows)
    scores = answers[SCORE]
    if wrong := int((~np.isfinite(scores)).sum()):
        raise DataError(f"{data.source}: {wrong:,} of {len(scores):,} rows score NaN or infinity: leave them out")
    return answers


def _manifest(model: Published, data: Data, calibration: Calibration, embeddings: np.ndarray) -> Manifest:
    before = model.manifest
    # Embeddings of one space are comparable in every encoding, so other rows do not change it.
    quantization = before.quantization or _of_its_space(model) or Quantizations.of(embeddings)
    earlier = before.provenance.recalibrated
    source = Recalibration(
        from_version=model.version,
        fitted=earlier.fitted if earlier else before.provenance.created,
        data=Path(data.source).name,
        data_sha256=Dataset.of(data.source, data.rows, None).sha256,
        rows=len(data.rows),
    )
    provenance = before.provenance.model_copy(update={"created": datetime.now(UTC), "recalibrated": source})
    changed = {"calibration": calibration, "quantization": quantization, "provenance": provenance}
    return before.model_copy(update=changed)


def _of_its_space(model: Published) -> Quantizations | None:
    """That of another version with the same embeddings: a sister, calibrated on other rows."""
    folders = model.folder.parent
    for version in layout.versions(folders.parent, model.name):
        with suppress(layout.ArtefactError):  # what cannot be read is not served either
            manifest = layout.read_manifest(folders / str(version))
            if manifest.quantization and manifest.embedding_space_id == model.manifest.embedding_space_id:
                return manifest.quantization
    return None


def _tell(before: Calibration, now: Calibration, scores: np.ndarray, progress: Progress) -> None:
    old, new = (calibration.threshold(calibration.false_alarm_rate) for calibration in (before, now))
    asked_before, asked = percent(before.false_alarm_rate), percent(now.false_alarm_rate)
    progress.say(f"threshold {new:.6g}, at {asked} false alarms; before {old:.6g}, at {asked_before}")
    progress.say(
        f"the one before would have called {percent(float((scores > old).mean()))} of these rows anomalies, "
        f"at {asked_before} asked"
    )
