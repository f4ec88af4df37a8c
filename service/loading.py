"""One published version -> a live model: read, verify, prove, put its queues in front."""

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

log = structlog.get_logger(__name__)

# Beside calls, a fifth of the time is worked: on two busy cores the slowest calls then hardly notice.
_REST = 4.0


@dataclass(frozen=True)
class Loader:
    """How versions become live. Needs a running event loop: each session gets its batcher."""

    root: Path
    opener: Opener
    metrics: Metrics
    limits: Limits
    arrivals: Arrivals
    drift_window_rows: int
    spans: Spans | None = None

    async def load(self, name: str, version: int, *, gently: bool = False) -> LiveModel:
        """gently: others are served meanwhile, and keep most of the processor.

        Raises ArtefactError naming the broken rule, StartError, OutOfMemory, or whatever a library makes of it."""
        started = time.perf_counter()
        # In a thread: signals are heard between models, and calls answered meanwhile.
        artefact = await asyncio.to_thread(layout.read, self.root, name, version, tuple(GRAPHS))
        manifest = artefact.manifest
        proven = await asyncio.to_thread(self.opener.open, artefact, _REST if gently else 0.0)
        tracked = self.drift_window_rows and manifest.drift
        drift = Tracker(name, version, manifest, self.drift_window_rows) if tracked else None
        batchers = {}
        for file, graph in proven.items():
            run = scored(graph.run, manifest) if file == MODEL else graph.run
            observe = drift.observe if drift and file != DECODER else None
            observer = self.metrics.graph(name, version, file)
            batchers[file] = Batcher(run, graph.costs, observer, self.limits, self.arrivals, observe, self.spans)
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
