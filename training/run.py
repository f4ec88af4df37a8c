"""A run's folder, runs/<name>/<time>/: run.json (settings, data hash), checkpoint.safetensors, log.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from training.config import FitConfig
from training.errors import RunError

if TYPE_CHECKING:
    from training.data import Dataset
    from training.trainer import EpochRecord

_RUN = "run.json"


class _RunFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    config: FitConfig
    data_sha256: str


@dataclass(frozen=True)
class Run:
    folder: Path
    config: FitConfig
    data_sha256: str

    @classmethod
    def create(cls, config: FitConfig, dataset: Dataset) -> Run:
        """A new folder; runs that start within one second get numbers."""
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        parent = config.runs / config.name
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (started if number == 1 else f"{started}-{number}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
        return cls.at(folder, config, dataset)

    @classmethod
    def at(cls, folder: Path, config: FitConfig, dataset: Dataset) -> Run:
        """In this folder, be it new or that of the same run before an interruption. Raises RunError when it is not."""
        if (folder / _RUN).exists():
            run = cls.open(folder)
            if (run.config, run.data_sha256) != (config, dataset.sha256):
                raise RunError(f"{folder}: was begun with other settings or rows: delete it to begin anew")
            return run
        folder.mkdir(parents=True, exist_ok=True)
        content = _RunFile(config=config, data_sha256=dataset.sha256)
        (folder / _RUN).write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return cls(folder, config, dataset.sha256)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises RunError."""
        try:
            content = _RunFile.model_validate_json((folder / _RUN).read_bytes())
        except OSError as error:
            raise RunError(f"{folder}: not a run: {_RUN}: {error.strerror}") from None
        except ValidationError as error:
            raise RunError(f"{folder / _RUN}: {error.errors()[0]['msg']}") from None
        return cls(folder, content.config, content.data_sha256)

    def on(self, device: str | None) -> Run:
        """Continued on another device than it began on, where one is named."""
        return self if device is None else replace(self, config=self.config.model_copy(update={"device": device}))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @cached_property
    def _draw(self) -> Callable[[EpochRecord], None]:
        from training.tensorboard import scalars

        return scalars(self.folder)

    def record(self, epoch: EpochRecord) -> None:
        """To log.jsonl, and to TensorBoard where it is installed."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(epoch)) + "\n")
        self._draw(epoch)

    def forget_after(self, epoch: int) -> None:
        """Drop the log's lines of epochs that the checkpoint does not have: they will be run again."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        kept = lines[:epoch]
        self.log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
