"""What reproductions gave: one small JSON file a seed, kept for good."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from torch import device

from training.errors import RunError
from training.reproduction import Budget, fingerprint


class Machine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    cores: int
    threads: int
    python: str
    torch: str
    gpu: str | None = None  # that trained

    @classmethod
    def this(cls, trained_on: device) -> Machine:
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            gpu=torch.cuda.get_device_name(trained_on) if trained_on.type == "cuda" else None,
        )

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)} of {self.cores} cores"
        gpu = f"{self.gpu} and " if self.gpu else ""
        return f"{gpu}{self.processor}, {threads}, torch {self.torch}"


class Record(BaseModel):
    """One seed of one recipe.

    data_sha256: of what was read, by name. minutes: by the clock, other programs' share of the machine included;
    processor_minutes: of this program alone, on all cores; None where they were not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reproduction: str
    budget: Budget
    recipe: dict[str, Any]
    seed: int
    data_sha256: dict[str, str]
    results: dict[str, FiniteFloat]
    minutes: float
    processor_minutes: float | None
    machine: Machine
    finished: datetime

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)


def path(folder: Path, name: str, budget: Budget, recipe: Mapping[str, Any], seed: int) -> Path:
    return folder / name / f"{budget}-{fingerprint(recipe)}-seed{seed}.json"


def write(folder: Path, record: Record) -> None:
    file = path(folder, record.reproduction, record.budget, record.recipe, record.seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def read(folder: Path, name: str) -> list[Record]:
    """All seeds of all recipes, the oldest first. Raises RunError naming a file that is no record."""
    return sorted(map(_read, (folder / name).glob("*.json")), key=lambda record: record.finished)


def _read(file: Path) -> Record:
    try:
        return Record.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RunError(f"{file}: not a record: {error.errors()[0]['msg']}: move it away") from None


def _processor() -> str:
    """Its name where the system tells one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
