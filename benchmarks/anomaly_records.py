"""What the anomaly benchmark measured: one JSON line for each set, protocol, seed and method, kept for good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat

from benchmarks.anomaly_data import Protocol

FOLDER = Path(__file__).parent / "results" / "anomaly"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Discoveries(_Strict):
    """Verdicts that control the false discovery rate, on batches of normal rows and a few anomalies.

    false_share: the mean over `batches` of the share of false ones among the discoveries, 0 where there are none.
    found_share: of the anomalies.
    """

    batches: int
    normals: int
    anomalies: int
    false_share: FiniteFloat
    found_share: FiniteFloat


class Promises(_Strict):
    """What became of the promises of a calibration of `calibration_rows` on `fresh_rows` normal rows.

    alarms: how many were called anomalies, by the false-alarm rate asked; None where it was refused. ks_distance: of
    their p-values from uniform; ks_p_value: that calibration and fresh scores differ as much, were they alike.
    """

    calibration_rows: int
    fresh_rows: int
    alarms: dict[str, int | None]
    ks_distance: FiniteFloat
    ks_p_value: FiniteFloat
    discoveries: Discoveries
    repeats_identical: bool


class Record(_Strict):
    """Seconds are by the clock, or of the processor, all cores; run: when it was started.

    publish_seconds: of fit_seconds, those after the model is trained and its score has learned.
    """

    protocol: Protocol
    set: str
    seed: int
    method: str
    settings: dict[str, Any]
    data_sha256: str
    auroc: FiniteFloat
    auprc: FiniteFloat
    train_rows: int
    test_rows: int
    columns: int
    fit_seconds: FiniteFloat
    fit_processor_seconds: FiniteFloat
    publish_seconds: FiniteFloat = 0.0
    publish_processor_seconds: FiniteFloat = 0.0
    score_seconds: FiniteFloat
    promises: Promises | None = None
    threads: int
    processor: str
    versions: dict[str, str]
    commit: str
    run: datetime

    @property
    def key(self) -> tuple[str, str, int]:
        return self.protocol, self.set, self.seed

    @property
    def train_seconds(self) -> float:
        return self.fit_seconds - self.publish_seconds

    @property
    def train_processor_seconds(self) -> float:
        return self.fit_processor_seconds - self.publish_processor_seconds

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings, self.data_sha256)


def fingerprint(settings: Mapping[str, Any], data_sha256: str) -> str:
    """A record with another one is of another method or other data: it is measured anew."""
    return hashlib.sha256(json.dumps([settings, data_sha256], sort_keys=True).encode()).hexdigest()


def path(method: str) -> Path:
    return FOLDER / f"{'-'.join(method.lower().replace('%', '').split())}.jsonl"


def read(methods: Iterable[str]) -> list[Record]:
    """Of the named methods, in their order."""
    files = [file for file in map(path, methods) if file.exists()]
    return [Record.model_validate_json(line) for file in files for line in file.read_bytes().splitlines()]


def write(record: Record) -> None:
    """In the place of one of the same protocol, set and seed."""
    others = [other for other in read([record.method]) if other.key != record.key]
    lines = [kept.model_dump_json() + "\n" for kept in sorted([*others, record], key=lambda kept: kept.key)]
    file = path(record.method)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(file)
