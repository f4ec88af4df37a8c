"""What became of each version's requests, by whichever API they came: for Triton's statistics and metric names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from service.counts import Count, Distribution

REJECTED, CANCELED, BACKEND, OTHER = REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
# By the reason of a ServiceError: these bring gRPC with them, which the supervisor of several processes does without.
_REASONS = {
    "QUEUE_FULL": REJECTED,
    "DEADLINE_EXCEEDED": REJECTED,
    "SHUTTING_DOWN": REJECTED,
    "INFERENCE_FAILED": BACKEND,
    "OUT_OF_MEMORY": BACKEND,
}


@dataclass(frozen=True, slots=True)
class Graph:
    """What one batcher has done."""

    queue_seconds: Distribution
    run_seconds: Distribution
    rows: Count


@dataclass(slots=True)
class Served:
    """Of one version. compute_seconds: of each request the time of the batch that it began in. last: when a batch last
    ended, in seconds since 1970; 0.0: never. graphs, waiting: by file; how many requests each queue has."""

    successes: int = 0
    success_seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    fail_seconds: float = 0.0
    compute_seconds: float = 0.0
    last: float = 0.0
    graphs: dict[str, Graph] = field(default_factory=dict)
    waiting: dict[str, Callable[[], int]] = field(default_factory=dict)

    def ended(self, failed: type[BaseException] | None, seconds: float) -> None:
        if failed is None:
            self.successes += 1
            self.success_seconds += seconds
        else:
            canceled = issubclass(failed, asyncio.CancelledError)
            reason = CANCELED if canceled else _REASONS.get(getattr(failed, "reason", ""), OTHER)
            self.failures[reason] += 1
            self.fail_seconds += seconds

    @property
    def rows(self) -> int:
        return sum(graph.rows.value for graph in self.graphs.values())

    @property
    def batches(self) -> int:
        return sum(sum(graph.run_seconds.counts) for graph in self.graphs.values())

    @property
    def begun(self) -> int:
        """Requests of which a row was run."""
        return sum(sum(graph.queue_seconds.counts) for graph in self.graphs.values())

    @property
    def queue_seconds(self) -> float:
        return sum(graph.queue_seconds.sum for graph in self.graphs.values())

    @property
    def pending(self) -> int:
        return sum(waiting() for waiting in self.waiting.values())
