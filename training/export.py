"""A trained model -> a published artefact: three ONNX files, checked against torch, and the manifest that proves it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hourglass.contract import layout
from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import (
    CLIPPED,
    DECODER,
    EMBEDDING,
    ENCODER,
    FLOAT16,
    FLOAT32,
    MODEL,
    RECONSTRUCTION_ERROR,
    SCORE,
    Array,
    AsideColumns,
    Detection,
    FileEntry,
    GoldenRows,
    HalfPrecision,
    Manifest,
    Precision,
    Provenance,
    Scaling,
    ScoreDefinition,
    Tolerance,
)
from hourglass.contract.quantization import Quantizations
from training import card
from training.at_hand import AtHand, at_hand
from training.config import FitConfig
from training.data import Dataset, Splits
from training.detection import drawn
from training.errors import ExportError, TrainingError
from training.golden import golden_rows
from training.graphs import Decoder, Encoder, Served, graphs, outputs
from training.half_precision import CLEAR, IN_FLOAT32, PARITY, Halved, halved
from training.report import model as report
from training.runtime import ONNXRUNTIME_VERSION, Graph
from training.trainer import EpochRecord

BATCH_SIZES = (1, 2, 7, 64, 1000)
_REAL_ROWS = 1000
_BORDERLINE = 1e-6
README = "README.md"
REPORT = "report.html"


@dataclass(frozen=True)
class Trained:
    """What is exported: the model with its best weights, what it learned from, and what its networks shall compute in.

    served: in float32, whatever the precision.
    """

    config: FitConfig
    served: Served
    dataset: Dataset
    splits: Splits
    best_epoch: int
    epochs: Sequence[EpochRecord] = ()  # none when the log is gone
    precision: Precision = FLOAT32


def export(trained: Trained, exported: Path) -> Path:
    """Publish under exported/<name>/<version>, the returned folder. Raises ExportError; then nothing is left behind."""
    return layout.publish(exported, trained.config.name, lambda folder: _write(trained, folder))


def false_alarm_rate(asked: float, calibration_rows: int) -> float:
    """The asked rate, or the smallest that so many calibration rows can promise."""
    return max(asked, 1 / (calibration_rows + 1))


def upper_bounds(scores: np.ndarray, precision: Precision, tolerance: Tolerance) -> np.ndarray:
    """What any runtime may make of these scores, by the parity that export proves: float64 [n].

    tolerance: the manifest's for scores; in float32 its relative part is enough.

    Where many rows are alike their scores are, too, and the threshold is one of them: by what two runtimes differ, all
    of these rows would be anomalies on the one and none on the other. Higher calibration scores break no promise.
    """
    exact = scores.astype(np.float64)
    return exact + tolerance.rtol * np.abs(exact) + (tolerance.atol if precision == FLOAT16 else 0)


def _write(trained: Trained, folder: Path) -> None:
    served, precision, splits = trained.served, trained.precision, trained.splits
    half = halved(served) if precision == FLOAT16 else None
    files = graphs(half or served)
    exported = {name: Graph(data) for name, data in files.items()}
    model = exported[MODEL]
    golden = _decided(served, golden_rows(splits.calibration, served.scaling, trained.config.seed), precision)
    checked = torch.cat([_decided(served, splits.early_stop[:_REAL_ROWS], precision), golden])
    units = {name: unit.numpy() for name, unit in served.units().items()}
    allowed, half_precision = dict.fromkeys(outputs(MODEL, served.autoencoder), PARITY), None
    if half:
        both = Halved(served, half, model)
        allowed = both.moved(checked).tolerances(units)
        half_precision = _proven(trained, both)
    calibration_rows = splits.calibration.numpy()
    answers = model.run_all(calibration_rows)
    scores = answers[SCORE]
    if not np.isfinite(scores).all():
        raise ExportError("the exported graph scores calibration rows with NaN or infinity")
    proof = _golden(golden, model, units, allowed, precision)
    rate = false_alarm_rate(trained.config.false_alarm_rate, len(scores))
    calibration = Calibration.from_scores(upper_bounds(scores, precision, proof.tolerance[precision][SCORE]), rate)
    # Half precision is held to embeddings and ranking: where many scores are alike, it decides otherwise than float32.
    check_parity(served, exported, checked, allowed, None if half else calibration.threshold(rate))
    metrics = _metrics(served, answers)
    anomalies = at_hand(trained, model, scores)
    detection = anomalies.detection() if anomalies else None
    manifest = _manifest(trained, files, calibration, proof, metrics, detection, half_precision)
    manifest = manifest.with_sketch(calibration_rows, scores, answers[CLIPPED])
    manifest = manifest.model_copy(update={"quantization": Quantizations.of(answers[EMBEDDING])})
    page = _report(trained, manifest, answers, anomalies)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / README).write_text(card.render(trained.config, manifest, served), encoding="utf-8")
    (folder / REPORT).write_text(page, encoding="utf-8")
    (folder / layout.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _proven(trained: Trained, both: Halved) -> HalfPrecision:
    early_stop, calibration, excluded = trained.splits.early_stop, trained.splits.calibration, trained.dataset.excluded
    return both.proven(
        early_stop[:_REAL_ROWS],
        calibration[drawn(len(calibration), _REAL_ROWS)],
        excluded.rows[drawn(len(excluded.rows), _REAL_ROWS)] if excluded else None,
    )


def _report(trained: Trained, manifest: Manifest, answers: Mapping[str, np.ndarray], anomalies: AtHand | None) -> str:
    try:
        return report.render(trained, manifest, answers, anomalies)
    except (TrainingError, OSError):
        raise
    except Exception as error:  # a fault of ours: a model without its pictures would hide it
        raise ExportError(
            f"{REPORT} cannot be drawn, which is a fault of hourglass: {type(error).__name__}: {error}; the run is kept"
        ) from error


@torch.inference_mode()
def _decided(served: Served, rows: Tensor, precision: Precision) -> Tensor:
    """Of rows in input units, those that two correct runtimes must answer alike. Raises ExportError if none is."""
    kept = rows[served.decided(rows, CLEAR[precision])]
    if not len(kept):
        instead = "it learned nothing that another runtime repeats" if precision == FLOAT32 else IN_FLOAT32
        raise ExportError(f"{precision} rounding decides every answer of this model: {instead}")
    return kept


def check_parity(
    served: Served,
    exported: Mapping[str, Graph],
    rows: Tensor,
    allowed: Mapping[str, Tolerance],
    threshold: float | None = None,
) -> None:
    """The graphs give torch's float32 numbers, |difference| <= atol + rtol |value|, and verdicts, at every batch size.

    Differences are taken in Served.units: with an atol of 1e-5 a reconstruction's in 1e-5 of a column's spread,
    whatever unit the column is in. Verdicts are compared where a threshold is given, unless the score is within 1e-6 of
    it, where rounding decides. rows: float32 [n, *row_shape]. allowed: of each output. Raises ExportError.
    """
    units = {name: unit.numpy() for name, unit in served.units().items()}
    for size in BATCH_SIZES:
        for start in range(0, len(rows) if size == 1 else 1, max(1, len(rows) // 16)):
            batch = rows[(start + torch.arange(size)) % len(rows)]
            expected = _torch(served, batch)
            answers = exported[MODEL].run(batch.numpy())
            _compare(MODEL, expected, answers, units, allowed)
            if threshold is not None:
                _compare_verdicts(expected[SCORE], answers[SCORE], threshold)
            encoded = _torch(Encoder(served), batch)
            _compare(ENCODER, encoded, exported[ENCODER].run(batch.numpy()), units, allowed)
            embedding = torch.from_numpy(expected[EMBEDDING])
            decoded = _torch(Decoder(served), embedding)
            _compare(DECODER, decoded, exported[DECODER].run(embedding.numpy()), units, allowed)


@torch.inference_mode()
def _torch(module: nn.Module, batch: Tensor) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.eval()(batch).items()}


def _compare(
    graph: str,
    expected: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    units: Mapping[str, np.ndarray],
    allowed: Mapping[str, Tolerance],
) -> None:
    for name, value in expected.items():
        unit = units.get(name, np.float32(1))
        if answers[name].shape != value.shape:
            raise ExportError(f"{graph}: {name} has shape {answers[name].shape}, torch gives {value.shape}")
        difference = np.abs(answers[name] - value) / unit
        most = allowed[name].atol + allowed[name].rtol * np.abs(value) / unit
        if not (difference <= most).all():
            worst = float(np.nanmax(difference)) if np.isfinite(difference).any() else float("nan")
            raise ExportError(f"{graph}: {name} differs from torch's by up to {worst:.2g} at {len(value)} rows")


def _compare_verdicts(expected: np.ndarray, answers: np.ndarray, threshold: float) -> None:
    clear = np.abs(expected - threshold) > _BORDERLINE * abs(threshold)
    if ((expected > threshold) != (answers > threshold))[clear].any():
        raise ExportError(f"{MODEL}: a verdict differs from torch's at {len(answers)} rows")


def _metrics(served: Served, answers: Mapping[str, np.ndarray]) -> dict[str, float]:
    """On the calibration split: how well rows are repeated, in scaled units, and what the score adds to that."""
    mean_squared = float(answers[RECONSTRUCTION_ERROR].mean(dtype=np.float64))
    return {
        "reconstruction_sse_per_row": mean_squared * math.prod(served.row_shape),
        "reconstruction_mse_per_feature": mean_squared,
        **served.score.metrics({name: torch.from_numpy(value) for name, value in answers.items()}),
    }


def _golden(
    rows: Tensor, model: Graph, units: Mapping[str, np.ndarray], allowed: Mapping[str, Tolerance], precision: Precision
) -> GoldenRows:
    answers = model.run(rows.numpy())
    largest = {name: float(unit.max()) for name, unit in units.items()}
    tolerance = {
        name: Tolerance(atol=max(PARITY.atol, part.atol * largest.get(name, 1.0)), rtol=part.rtol)
        for name, part in allowed.items()
    }
    for name, part in tolerance.items():
        if not part.proves(answers[name]):
            raise ExportError(
                f"{precision} rounds {name} by up to {part.atol:.2g}, so much that golden rows would prove nothing"
            )
    return GoldenRows(
        input=Array.pack(rows.numpy()),
        outputs={name: Array.pack(value) for name, value in answers.items()},
        tolerance={precision: tolerance},
    )


def _manifest(
    trained: Trained,
    files: Mapping[str, bytes],
    calibration: Calibration,
    golden: GoldenRows,
    metrics: dict[str, float],
    detection: Detection | None,
    half_precision: HalfPrecision | None,
) -> Manifest:
    config, served, dataset = trained.config, trained.served, trained.dataset
    entries = {n: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for n, data in files.items()}
    return Manifest(
        variant=config.variant,
        files=entries,
        row_shape=list(dataset.row_shape),
        columns=None if dataset.schema is None else list(dataset.schema.columns),
        aside=AsideColumns(label=config.label, id=config.id, time=config.time, ignored=list(config.ignore)),
        window=dataset.window,
        missing_values="fill" if served.scaling.missing else "refuse",
        precision=trained.precision,
        embedding_size=served.autoencoder.architecture.embedding_dim,
        embedding_space_id=entries[ENCODER].sha256[:16],
        prior=served.autoencoder.prior,
        scaling=Scaling(
            shift=Array.pack(served.scaling.shift.numpy()),
            scale=Array.pack(served.scaling.scale.numpy()),
            low=served.scaling.low,
            high=served.scaling.high,
        ),
        score=ScoreDefinition(name=served.score.name, formula=served.score.formula),
        calibration=calibration,
        golden=golden,
        provenance=Provenance(
            created=datetime.now(UTC),
            data=dataset.source,
            data_sha256=dataset.sha256,
            rows=trained.splits.sizes(),
            seed=config.seed,
            config=_settings(trained),
            versions=_versions(),
            metrics={**metrics, "best_epoch": float(trained.best_epoch)},
            detection=detection,
            half_precision=half_precision,
        ),
    )


def _settings(trained: Trained) -> dict[str, Any]:
    """The settings that made the model, defaults filled in, without this machine's paths and devices."""
    architecture = trained.served.autoencoder.architecture
    settings = trained.config.model_dump(mode="json", exclude={"data", "device", "exported", "runs"})
    settings["embedding_dim"] = architecture.embedding_dim
    settings["hidden"] = list(architecture.widths)
    settings["hidden_activation"] = architecture.hidden_activation
    settings["score"] = trained.served.score.name
    settings["options"] = trained.served.autoencoder.options.model_dump(mode="json")
    return settings


def _versions() -> dict[str, str]:
    packages = ("hourglass-serving", "torch", "onnx", "onnxscript", "numpy")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **versions, "onnxruntime": ONNXRUNTIME_VERSION}
