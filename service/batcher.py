"""Greedy batching: whatever is queued when a runner becomes free is run together, with no timer.

Rows and bytes are counted, not requests. A long request is run in several batches, between which others have their
turn, and put together again. A request's failure or cancellation never touches the others of its batch, and the queue
outlives every failure.

What is quick is run where it is, on the event loop: handing it to a thread and back costs more than the wait. What is
not goes to one of a few runners, threads that call the same session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from service import tensors
from service.arrivals import Arrivals
from service.costs import Costs
from service.errors import DeadlineMissed, InferenceFailed, Overloaded, ServiceError, ShuttingDown
from service.pieces import Answer, Piece, Ran, Request, finite_or_not, hand_out, shares
from service.runners import Runners

log = logging.getLogger(__name__)

_EXPIRED = "the deadline passed while rows were queued; these were not run"
_FEW = 64
_GOING_AWAY = "the server is shutting down: try another"

# A batch of so much work gains little by growing: it is begun whoever else is coming.
_ENOUGH_SECONDS = 1e-3

Run = Callable[[np.ndarray, Sequence[str]], Answer]


class Observer(Protocol):
    """Told on the event loop, once a batch or a refusal, never once a row."""

    def batch(self, rows: int, waits: Sequence[float], run_seconds: float) -> None: ...

    def rejected(self, reason: str) -> None: ...

    def ended(self, failed: type[BaseException] | None, seconds: float) -> None:
        """Once a request, seconds after it came. failed: what its caller is told instead of an answer."""


class Spans(Protocol):
    """Of traces."""

    def current(self) -> Any:
        """Of the call that submits rows."""

    def ran(self, pieces: Sequence[Piece], started: float, seconds: float) -> None:
        """Told on the event loop, once a batch; times as time.perf_counter's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """batch_rows: most rows of one batch. queue_rows, queue_bytes: a queue that has so many takes no more requests.
    runners: batches of one graph that run at once. greedy: so many do whatever their size, the others when they are
    full. serial: they wait for each other all the same, as on a GPU. inline_seconds: what is expected to take no longer
    is run on the event loop. delay: seconds for which a batch that is not full waits for more."""

    batch_rows: int
    queue_rows: int
    queue_bytes: int
    runners: int = 1
    greedy: int = 2**30
    serial: bool = False
    inline_seconds: float = 0.0
    delay: float = 0.0


class Batcher:
    """The queue in front of one session. Everything but the runs themselves happens on the event loop."""

    def __init__(
        self,
        run: Run,
        costs: Costs,
        observer: Observer,
        limits: Limits,
        arrivals: Arrivals,
        answered: Callable[[np.ndarray, Answer], None] | None = None,
        spans: Spans | None = None,
    ) -> None:
        """answered: shown, on the event loop, rows that were run together and all that came out of it."""
        self._run = run
        self._answered = answered
        self._spans = spans
        self._costs = costs
        self._observer = observer
        self._limits = limits
        self._arrivals = arrivals
        self._batch_rows = min(limits.batch_rows, costs.batch_rows)
        self._enough_rows = self._batch_rows if limits.delay else min(self._batch_rows, costs.rows_in(_ENOUGH_SECONDS))
        self._loop = asyncio.get_running_loop()
        self._runners = Runners(limits.runners)
        self._free = limits.runners
        self._idle = asyncio.Event()
        self._idle.set()
        self._queue: deque[Request] = deque()
        self._queued_rows = 0
        self._queued_bytes = 0
        self._seconds_per_row = costs.expect(self._batch_rows) / self._batch_rows
        self._given_up = 0  # of what is, or was, in the queue
        self._planned = False  # a turn, by the timer or by arrivals
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def queued_requests(self) -> int:
        """Some of them may have been given up."""
        return len(self._queue)

    async def submit(
        self,
        rows: np.ndarray,
        outputs: Sequence[str],
        timeout: float | None = None,
        *,
        patience: float | None = None,
        urgent: bool = False,
    ) -> Answer:
        """rows: float32 [n, ...] -> the asked outputs for these rows, in order.

        timeout: seconds until gRPC ends the call; rows that wait for longer are not run. patience: seconds after which
        waiting rows are answered DeadlineMissed. urgent: ahead of what waits and is not; what is running is not
        disturbed. Raises Overloaded, DeadlineMissed, InferenceFailed, ShuttingDown. Cancelling it takes
        the rows out of the queue.
        """
        came = time.perf_counter()
        failed: type[BaseException] | None = None  # the class: an error kept here would keep this frame, and the rows
        try:
            if self._closing:
                raise ShuttingDown(_GOING_AWAY)
            self._check_room()
            deadline = came + min(seconds for seconds in (timeout, patience, float("inf")) if seconds is not None)
            trace = self._spans and self._spans.current()
            request = Request(rows, outputs, deadline, self._loop.create_future(), urgent, trace, came)
            self._line_up(request)
            self._queued_rows += len(rows)
            self._queued_bytes += rows.nbytes
            self._plan_turn()
            patient = None if patience is None else self._loop.call_later(patience, self._expire, request)
            try:
                return await request.answer
            except asyncio.CancelledError:
                self._give_up(request)  # at once, not when its turn would have come
                raise
            finally:
                if patient is not None:
                    patient.cancel()
        except BaseException as error:
            failed = type(error)
            raise
        finally:
            self._observer.ended(failed, time.perf_counter() - came)

    async def close(self) -> None:
        """Stop after the batches that are running; what still waits is answered ShuttingDown."""
        self._closing = True
        await self._idle.wait()
        while self._queue:
            self._fail(self._queue.popleft(), ShuttingDown(_GOING_AWAY))
        self._runners.close()

    def _plan_turn(self) -> None:
        """Calls that come in together are taken up one after the other, and are then run together."""
        if not self._may_begin():
            return
        quiet = self._arrivals.quiet and not self._limits.delay
        if quiet or self._queued_rows >= self._enough_rows:
            self._take_turn()
        elif self._planned:
            return
        elif self._limits.delay:
            self._planned = True
            self._timer = self._loop.call_later(self._limits.delay, self._take_turn)
        else:
            self._planned = True
            self._arrivals.when_quiet(self._take_turn)

    def _may_begin(self) -> bool:
        greedy = self._limits.runners - self._free < self._limits.greedy
        return bool(self._free and self._queue and (greedy or self._queued_rows >= self._batch_rows))

    def _take_turn(self) -> None:
        """Give each free runner a batch; or run one here, and let others have the event loop before the next."""
        self._planned = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._may_begin() and not self._closing and (batch := self._cut()):
            under_way = self._limits.runners - self._free
            self._free -= 1
            self._idle.clear()
            alone = not (self._limits.serial and under_way)
            if alone and self._costs.expect(sum(map(len, batch))) <= self._limits.inline_seconds:
                self._finish(*self._work(batch))
                self._arrivals.begun(len(batch))
                return
            try:
                self._runners.submit(partial(self._work_aside, batch), under_way)
            except RuntimeError as error:
                self._finish([Ran(batch, batch[0].rows, error)], time.perf_counter(), 0.0)
                return
            self._arrivals.begun(len(batch))

    def _work_aside(self, batch: list[Piece]) -> None:
        self._loop.call_soon_threadsafe(self._finish, *self._work(batch))

    def _work(self, batch: list[Piece]) -> tuple[list[Ran], float, float]:
        """What came of the batch, when it began, and how long it took."""
        started = time.perf_counter()
        return self._compute(batch), started, time.perf_counter() - started

    def _finish(self, ran: list[Ran], started: float, seconds: float) -> None:
        """Hand out what came of a batch. Never raises: the queue must go on."""
        self._free += 1
        if self._free == self._limits.runners:
            self._idle.set()
        if self._queue:
            self._loop.call_soon(self._plan_turn)
        for group in ran:
            if isinstance(group.answer, Exception):
                for piece in group.pieces:
                    self._fail(piece.request, group.answer)
            else:
                hand_out(group.pieces, group.answer)
        try:
            self._report(ran, started, seconds)
        except Exception:
            log.exception("a batch could not be reported")

    def _report(self, ran: list[Ran], started: float, seconds: float) -> None:
        pieces = [piece for group in ran for piece in group.pieces]
        rows = sum(map(len, pieces))
        self._seconds_per_row += 0.1 * (seconds / rows - self._seconds_per_row)  # a moving average
        waits = [started - piece.request.queued_at for piece in pieces if not piece.start]
        self._observer.batch(rows, waits, seconds)
        if self._spans is not None:
            self._spans.ran(pieces, started, seconds)
        if self._answered is None:
            return
        for group in ran:
            if isinstance(group.answer, Exception):
                continue
            if all(piece.request.outputs == group.pieces[0].request.outputs for piece in group.pieces):
                self._answered(group.rows, group.answer)
            else:  # what a batch-mate asked for is not this one's answer
                for piece, answer in shares(group.pieces, group.answer):
                    self._answered(piece.rows, answer)

    def _fail(self, request: Request, error: Exception) -> None:
        self._leave(request)
        if request.answer.done():
            return
        if not isinstance(error, ServiceError):
            cause, error = error, InferenceFailed("the runtime refused these rows")
            error.__cause__ = cause
        request.answer.set_exception(error)

    def _expire(self, request: Request) -> None:
        if not request.cut and not request.answer.done():
            self._observer.rejected(DeadlineMissed.reason)
            self._fail(request, DeadlineMissed(_EXPIRED))
            self._give_up(request)

    def _give_up(self, request: Request) -> None:
        """Behind urgent ones its turn may never come: the queue is not to fill up with what nobody waits for."""
        self._leave(request)
        self._given_up += 1
        if self._given_up > max(_FEW, len(self._queue) // 2):
            self._queue = deque(request for request in self._queue if not request.answer.done())
            self._given_up = 0

    def _leave(self, request: Request) -> None:
        """What was not run of it will not be, and makes room."""
        if not request.cut:
            request.rows = request.rows[:0].copy()  # it stays in the queue until its turn would have come
        self._take(request, request.left)

    def _take(self, request: Request, rows: int) -> Piece:
        """The next rows of a request, out of the queue."""
        piece = Piece(request, request.cut, request.cut + rows)
        request.cut = piece.end
        self._queued_rows -= rows
        self._queued_bytes -= rows * request.row_bytes
        return piece

    def _check_room(self) -> None:
        """Long requests and short ones are refused alike, when the queue is full: long ones must not wait for ever for
        room that short ones take."""
        limits = self._limits
        if self._queued_rows >= limits.queue_rows or self._queued_bytes >= limits.queue_bytes:
            self._observer.rejected(Overloaded.reason)
            raise Overloaded(
                f"{self._queued_rows} rows, {self._queued_bytes} bytes, are waiting; no more are taken from "
                f"{limits.queue_rows} rows or {limits.queue_bytes} bytes on: retry later",
                retry_after=min(max(self._queued_rows * self._seconds_per_row / limits.runners, 0.01), 5.0),
            )

    def _cut(self) -> list[Piece]:
        """The next batch: requests in order of arrival, without the cancelled and expired."""
        now = time.perf_counter()
        room = self._batch_rows
        batch: list[Piece] = []
        rest: Request | None = None
        while self._queue and room:
            request = self._queue.popleft()
            if request.answer.done():  # cancelled by its caller
                self._leave(request)
            elif request.deadline <= now:
                self._observer.rejected(DeadlineMissed.reason)
                self._fail(request, DeadlineMissed(_EXPIRED))
            else:
                piece = self._take(request, min(request.left, room))
                batch.append(piece)
                room -= len(piece)
                if request.left:
                    rest = request
        if rest:
            self._put_back(rest)
        return batch

    def _line_up(self, request: Request) -> None:
        """At the end; what is urgent behind the others that are."""
        if not request.urgent:
            self._queue.append(request)
            return
        place = next((i for i, other in enumerate(self._queue) if not other.urgent), len(self._queue))
        self._queue.insert(place, request)

    def _put_back(self, rest: Request) -> None:
        """Behind a batch of others: neither do they wait for all of it, nor it for all of them."""
        if rest.urgent:
            self._line_up(rest)
            return
        ahead = 0
        for place, request in enumerate(self._queue):
            if ahead >= self._batch_rows:
                self._queue.insert(place, rest)
                return
            ahead += request.left
        self._queue.append(rest)

    def _compute(self, batch: list[Piece]) -> list[Ran]:
        """On whatever thread. Never raises."""
        outputs = tuple(dict.fromkeys(name for piece in batch for name in piece.request.outputs))
        try:
            rows = batch[0].rows if len(batch) == 1 else np.concatenate([piece.rows for piece in batch])
            together = self._run(rows, outputs)
            if any(len(values) != len(rows) for values in together.values()):
                raise RuntimeError(f"{len(rows)} rows came back as {[len(v) for v in together.values()]}")
        except Exception as error:
            if len(batch) == 1:
                return [Ran(batch, batch[0].rows, error)]
            # Somebody spoils it: find out who, half by half, so that the others still get their answers.
            half = len(batch) // 2
            return self._compute(batch[:half]) + self._compute(batch[half:])
        if all(tensors.all_finite(values) for values in together.values() if values.dtype.kind == "f"):
            return [Ran(batch, rows, together)]
        return [finite_or_not(piece, answer) for piece, answer in shares(batch, together)]
