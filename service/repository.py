"""exported/ -> live models: scan, verify, prove, and say why a version is left out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from hourglass.contract import layout
from hourglass.contract.manifest import DECODER, GRAPHS, MODEL
from service.arrivals import Arrivals
from service.batcher import Batcher, Limits, Spans
from service.drift import Tracker
from service.engine import LiveModel
from service.metrics import Metrics
from service.proving import Opener
from service.scoring import scored
from service.start import StartError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Repository:
    """How models become live. Needs a running event loop: each session gets its batcher."""

    root: Path
    newest: int | None
    opener: Opener
    metrics: Metrics
    limits: Limits
    arrivals: Arrivals
    drift_window_rows: int
    spans: Spans | None = None

    async def load(self) -> list[LiveModel]:
        """Of each model the newest versions that verify. Raises StartError when a model has none, or there is none."""
        live: list[LiveModel] = []
        for name in self._names():
            versions = await self._load_versions(name)
            if not versions:
                raise StartError(f"--exported {self.root}: no version of {name!r} can be served; the log says why")
            live += versions
        if not live:
            if self._is_one_model():
                raise StartError(f"--exported {self.root}: this is one model: give the folder it is in")
            raise StartError(f"--exported {self.root}: holds no models; publish one with `hourglass-train fit`")
        return live

    def _names(self) -> list[str]:
        try:
            return layout.names(self.root)
        except OSError as error:
            raise StartError(f"--exported {error.filename or self.root}: {error.strerror}") from None

    def _is_one_model(self) -> bool:
        try:
            return bool(layout.versions(self.root.parent, self.root.name))
        except (ValueError, OSError):
            return False

    async def _load_versions(self, name: str) -> list[LiveModel]:
        live: list[LiveModel] = []
        for version in layout.versions(self.root, name):
            if self.newest is not None and len(live) == self.newest:
                break
            try:
                live.append(await self._open(name, version))
            except StartError:
                raise
            except Exception as error:  # a model is data: whatever it makes libraries do, others go on
                why = str(error) if isinstance(error, layout.ArtefactError) else f"{type(error).__name__}: {error}"
                self.metrics.load_failed(name)
                log.error("model refused", model=name, version=version, why=why)
        return live

    async def _open(self, name: str, version: int) -> LiveModel:
        started = time.perf_counter()
        # In a thread: signals are heard between models.
        artefact = await asyncio.to_thread(layout.read, self.root, name, version, tuple(GRAPHS))
        manifest = artefact.manifest
        proven = await asyncio.to_thread(self.opener.open, artefact)
        tracked = self.drift_window_rows and manifest.drift
        drift = Tracker(name, version, manifest, self.drift_window_rows) if tracked else None
        batchers = {}
        for file, graph in proven.items():
            run = scored(graph.run, manifest) if file == MODEL else graph.run
            observe = drift.observe if drift and file != DECODER else None
            batchers[file] = Batcher(
                run,
                graph.costs,
                self.metrics.graph(name, version, file),
                self.limits,
                self.arrivals,
                observe,
                self.spans,
            )
        model = LiveModel(
            name,
            version,
            manifest,
            str(self.opener.device),
            batchers,
            {file: graph.lanes for file, graph in proven.items() if graph.lanes},
            drift,
            self.metrics.scored(name, version),
        )
        seconds = time.perf_counter() - started
        self.metrics.model_loaded(model, seconds)
        log.info(
            "model loaded",
            model=name,
            version=version,
            variant=manifest.variant,
            precision=manifest.precision,
            embedding_space_id=manifest.embedding_space_id,
            seconds=round(seconds, 3),
            **({"batch_rows": {file: lanes.costs.rows for file, lanes in model.lanes.items()}} if model.lanes else {}),
        )
        return model
