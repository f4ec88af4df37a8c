"""Greedy batching: whatever is queued when the session becomes free is run together, with no timer.

Rows and bytes are counted, not requests. A request's failure or cancellation never touches the others of its batch,
and the loop outlives every failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service import tensors
from service.errors import DeadlineMissed, InferenceFailed, Overloaded, ServiceError, ShuttingDown

log = logging.getLogger(__name__)

_GOING_AWAY = "the server is shutting down: try another"

Answer = dict[str, np.ndarray]
Run = Callable[[np.ndarray, Sequence[str]], Answer]


class Observer(Protocol):
    """Told once a batch or a refusal, never once a row."""

    def batch(self, rows: int, waits: Sequence[float], run_seconds: float) -> None: ...

    def rejected(self, reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Request:
    rows: np.ndarray
    outputs: Sequence[str]
    deadline: float
    answer: asyncio.Future[Answer]
    queued_at: float = field(default_factory=time.perf_counter)
    queued: bool = True


class Batcher:
    """The queue in front of one session, and the thread that runs it: a slow model must not keep others waiting."""

    def __init__(self, run: Run, observer: Observer, *, max_batch_rows: int, max_queue_rows: int, max_queue_bytes: int):
        self._run = run
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="session")
        self._observer = observer
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._max_queue_bytes = max_queue_bytes
        self._queue: deque[_Request] = deque()
        self._queued_rows = 0
        self._queued_bytes = 0
        self._seconds_per_row = 0.0
        self._closing = False
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._serve())

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    async def submit(self, rows: np.ndarray, outputs: Sequence[str], timeout: float | None = None) -> Answer:
        """rows: float32 [n, ...] with n <= max_batch_rows -> the asked outputs for these rows, in order.

        timeout: seconds the caller is willing to wait in the queue. Raises Overloaded, DeadlineMissed,
        InferenceFailed, ShuttingDown. Cancelling it takes the rows out of the queue.
        """
        if self._closing:
            raise ShuttingDown(_GOING_AWAY)
        self._check_room(rows)
        deadline = float("inf") if timeout is None else time.perf_counter() + timeout
        request = _Request(rows, outputs, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._queued_rows += len(rows)
        self._queued_bytes += rows.nbytes
        self._arrived.set()
        try:
            return await request.answer
        finally:
            self._leave(request)  # at once when the caller cancels, not when its turn would have come

    async def close(self) -> None:
        """Stop after the batch that is running; what still waits is answered ShuttingDown."""
        self._closing = True
        self._arrived.set()
        await self._task
        while self._queue:
            _fail(self._queue.popleft(), ShuttingDown(_GOING_AWAY))
        self._executor.shutdown()

    async def _serve(self) -> None:
        while not self._closing:
            await self._arrived.wait()
            batch = self._cut()
            if not self._queue:
                self._arrived.clear()
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[_Request]) -> None:
        """Run a batch and answer its requests. Never raises: the loop must go on."""
        started = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._executor, self._compute, batch)
            for request, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    _fail(request, answer)
                elif not request.answer.done():
                    request.answer.set_result(answer)
            self._account(batch, started)
        except Exception as error:
            log.exception("a batch could not be answered")
            for request in batch:
                _fail(request, error)

    def _leave(self, request: _Request) -> None:
        if request.queued:
            request.queued = False
            self._queued_rows -= len(request.rows)
            self._queued_bytes -= request.rows.nbytes

    def _check_room(self, rows: np.ndarray) -> None:
        """An empty queue takes any request."""
        rows_fit = self._queued_rows + len(rows) <= self._max_queue_rows
        bytes_fit = self._queued_bytes + rows.nbytes <= self._max_queue_bytes or not self._queued_rows
        if not (rows_fit and bytes_fit):
            self._observer.rejected(Overloaded.reason)
            raise Overloaded(
                f"{self._queued_rows} rows, {self._queued_bytes} bytes, are waiting; at most {self._max_queue_rows} "
                f"rows and {self._max_queue_bytes} bytes may: retry later",
                retry_after=min(max(self._queued_rows * self._seconds_per_row, 0.01), 5.0),
            )

    def _cut(self) -> list[_Request]:
        """The next batch: requests in order of arrival up to max_batch_rows, without the cancelled and expired."""
        now = time.perf_counter()
        batch: list[_Request] = []
        rows = 0
        while self._queue:
            request = self._queue[0]
            if not request.queued or request.answer.done():
                pass  # cancelled by its caller
            elif request.deadline <= now:
                self._observer.rejected(DeadlineMissed.reason)
                _fail(
                    request,
                    DeadlineMissed("the deadline passed while the rows were queued; they were not run"),
                )
            elif rows + len(request.rows) > self._max_batch_rows:
                break
            else:
                batch.append(request)
                rows += len(request.rows)
            self._queue.popleft()
            self._leave(request)
        return batch

    def _compute(self, batch: list[_Request]) -> list[Answer | Exception]:
        """In a thread of the executor: one answer or exception for each request."""
        outputs = tuple(dict.fromkeys(name for request in batch for name in request.outputs))
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([request.rows for request in batch])
        try:
            together = self._run(rows, outputs)
            if any(len(values) != len(rows) for values in together.values()):
                raise RuntimeError(f"{len(rows)} rows came back as {[len(v) for v in together.values()]}")
        except Exception as error:
            if len(batch) == 1:
                return [error]
            # Somebody spoils it: find out who, half by half, so that the others still get their answers.
            half = len(batch) // 2
            return self._compute(batch[:half]) + self._compute(batch[half:])
        answers: list[Answer | Exception] = []
        start = 0
        for request in batch:
            end = start + len(request.rows)
            answer = {name: together[name][start:end] for name in request.outputs}
            answers.append(answer if all(map(tensors.all_finite, answer.values())) else _not_finite(answer))
            start = end
        return answers

    def _account(self, batch: list[_Request], started: float) -> None:
        rows = sum(len(request.rows) for request in batch)
        seconds = time.perf_counter() - started
        # A moving average, from the first measurement on.
        weight = 0.1 if self._seconds_per_row else 1.0
        self._seconds_per_row += weight * (seconds / rows - self._seconds_per_row)
        self._observer.batch(rows, [started - request.queued_at for request in batch], seconds)


def _not_finite(answer: Answer) -> InferenceFailed:
    for name, values in answer.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            return InferenceFailed(f"the model's {name} of row {row} is not finite", field=name, row=row)
    raise AssertionError("called with finite answers")


def _fail(request: _Request, error: Exception) -> None:
    if request.answer.done():
        return
    if not isinstance(error, ServiceError):
        cause, error = error, InferenceFailed("the runtime refused these rows")
        error.__cause__ = cause
    request.answer.set_exception(error)
