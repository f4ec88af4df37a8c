"""What reproductions gave: one small JSON file a seed, kept for good."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from training.reproduction import Budget, fingerprint


class Machine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    cores: int
    threads: int
    gpu: str | None
    python: str
    torch: str

    @classmethod
    def this(cls) -> Machine:
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            python=platform.python_version(),
            torch=torch.__version__,
        )

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)} of {self.cores} cores"
        return f"{self.gpu or self.processor}, {threads}, torch {self.torch}"


class Record(BaseModel):
    """One seed of one recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reproduction: str
    budget: Budget
    recipe: dict[str, Any]
    seed: int
    results: dict[str, float]
    minutes: float
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
    """All seeds of all recipes, the oldest first."""
    records = [Record.model_validate_json(file.read_bytes()) for file in (folder / name).glob("*.json")]
    return sorted(records, key=lambda record: record.finished)


def _processor() -> str:
    """Its name where the system tells one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
