"""Calls of few rows travel together, with no timer.

Calls that are made in one turn of the event loop go as one message. While messages are under way calls gather, and go
together as soon as one of these is answered. Each caller gets what it would have got alone: one that cancels, or whose
rows are refused, does not touch the others.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import grpc

from hourglass import steps
from hourglass.errors import HourglassError
from hourglass.requests import Answer, Method
from hourglass.rows import Rows, Terms, count, join
from hourglass.steps import Limits, Steps

# Messages under way at once, of calls that can travel together. With 64 to 1000 callers 1 and 2 do as many one-row
# calls/s (30,000 to 40,000, client and server on 2 cores). With 4 callers 10 ms away 1 answers 90 % in 22 ms, 2 in 13.
_WINDOW = 2
# A message that takes so long no longer holds others up: its server may be stuck, and another may not be.
_SLOW_SECONDS = 0.25
# What may be wrong with some of a message's rows. Anything else would meet each of its calls alone as well.
_OF_ROWS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)

A = TypeVar("A", bound=Answer)


class Coalescer:
    """carry_out: of a plan that hands out one value. limits: those already learned."""

    def __init__(self, carry_out: Callable[[Steps[Any]], Awaitable[Any]], limits: Limits) -> None:
        self._carry_out = carry_out
        self._limits = limits
        self._lookups: dict[Hashable, asyncio.Task[Terms]] = {}
        self._queues: dict[Hashable, _Queue] = {}

    async def ask(self, method: Method[A], model: str, rows: Any, version: int | None, **options: Any) -> A:
        """As `steps.array`. Rows that do not fill a message share one with those of other calls."""

        def send(rows: Any) -> Awaitable[A]:
            return self._carry_out(steps.array(method, self._limits, model, rows, version, **options))

        method.check(model=model, version=version, **options)
        learned = (model, version)
        terms = self._limits.get(learned) or await self._look_up(model, version)
        most = terms.room(options).rows
        if not 0 < count(rows) <= most:
            return await send(rows)
        try:
            kept = terms.rows(rows).copy()
        except HourglassError:
            return await send(rows)  # which finds out whether the model has other columns by now
        key = (method.name, model, version, kept.kind, *options.items())
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(send, partial(self._queues.pop, key, None))
        answer: A | None = await queue.ask(kept, most)
        if answer is None:
            return await send(kept if self._limits.get(learned) == terms else rows)
        return answer

    async def _look_up(self, model: str, version: int | None) -> Terms:
        """Once for all who ask at the same time."""
        key = (model, version)

        def end(lookup: asyncio.Task[Terms]) -> None:
            del self._lookups[key]
            if not lookup.cancelled():
                lookup.exception()  # all who asked may have been cancelled: nobody else looks

        if key not in self._lookups:
            self._lookups[key] = asyncio.ensure_future(self._carry_out(steps.learn(self._limits, model, version)))
            self._lookups[key].add_done_callback(end)
        try:
            return await asyncio.shield(self._lookups[key])
        except HourglassError as error:
            raise copy(error) from None


@dataclass(slots=True, eq=False)
class _Call:
    """answer: for its rows; None: they have to be sent alone."""

    rows: Rows
    answer: asyncio.Future[Any]
    message: _Message | None = None


@dataclass(slots=True, eq=False)
class _Message:
    calls: Sequence[_Call]
    task: asyncio.Task[None]


class _Queue:
    """Of calls that can travel together."""

    def __init__(self, send: Callable[[Rows], Awaitable[Any]], idle: Callable[[], object]) -> None:
        self._send = send
        self._idle = idle
        self._waiting: deque[_Call] = deque()
        self._waiting_rows = 0
        self._most = 1
        self._under_way: dict[asyncio.Task[None], float] = {}  # since when
        self._woken = False
        self._later: asyncio.TimerHandle | None = None

    async def ask(self, rows: Rows, most: int) -> Any:
        """most: so many rows fit in a message."""
        loop = asyncio.get_running_loop()
        call = _Call(rows, loop.create_future())
        self._waiting.append(call)
        self._waiting_rows += len(rows)
        self._most = most
        if not self._woken:
            self._woken = True
            loop.call_soon(self._go)
        try:
            return await call.answer
        except asyncio.CancelledError:
            if call.message is not None and all(other.answer.done() for other in call.message.calls):
                call.message.task.cancel()
            raise

    def _go(self) -> None:
        """Sends what may go now: a full message gains nothing by waiting for those under way."""
        self._woken = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        loop = asyncio.get_running_loop()
        while self._waiting and (self._may_go(loop.time()) or self._waiting_rows >= self._most):
            self._start(self._cut())
        if not self._under_way:
            self._idle()
        elif self._waiting:
            self._later = loop.call_later(_SLOW_SECONDS, self._go)

    def _may_go(self, now: float) -> bool:
        return sum(now - since < _SLOW_SECONDS for since in self._under_way.values()) < _WINDOW

    def _cut(self) -> list[_Call]:
        """The next calls, as many as fit in a message, without the cancelled."""
        calls: list[_Call] = []
        room = self._most
        while self._waiting and (not calls or len(self._waiting[0].rows) <= room):
            call = self._waiting.popleft()
            self._waiting_rows -= len(call.rows)
            if not call.answer.done():
                calls.append(call)
                room -= len(call.rows)
        return calls

    def _start(self, calls: Sequence[_Call]) -> None:
        if calls:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._answer(calls))
            message = _Message(calls, task)
            for call in calls:
                call.message = message
            self._under_way[task] = loop.time()
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._go()

    async def _answer(self, calls: Sequence[_Call]) -> None:
        rows = [call.rows for call in calls]
        try:
            answer = await self._send(join(rows))
            parts = answer.split([len(part) for part in rows])
        except asyncio.CancelledError:
            for call in calls:
                call.answer.cancel()  # the client was closed
            raise
        except Exception as error:
            self._refuse(calls, error)
        else:
            for call, part in zip(calls, parts, strict=True):
                _end(call, part)

    def _refuse(self, calls: Sequence[_Call], error: Exception) -> None:
        """Ends the calls of a message that failed, or sends them apart from the one whose rows are at fault."""
        if isinstance(error, HourglassError) and not _is_of_rows(error):
            for call in calls:
                _end(call, copy(error))
        elif len(calls) == 1:
            _end(calls[0], None if _is_outdated(error) else error)
        elif (guilty := _owner(calls, error)) is None:
            for call in calls:
                _end(call, None)
        else:
            _end(calls[guilty], None)
            others = [call for call in calls if not call.answer.done()]
            # In halves: where many are at fault, the others have their answers after few messages.
            self._start(others[: len(others) // 2])
            self._start(others[len(others) // 2 :])


def _end(call: _Call, outcome: Any) -> None:
    if call.answer.done():
        return  # cancelled
    if isinstance(outcome, Exception):
        call.answer.set_exception(outcome)
    else:
        call.answer.set_result(outcome)


def _is_of_rows(error: HourglassError) -> bool:
    too_long = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason
    return too_long or error.code in _OF_ROWS


def _owner(calls: Sequence[_Call], error: Exception) -> int | None:
    """Which call's row the error names."""
    row = error.row if isinstance(error, HourglassError) else None
    ends = list(accumulate(len(call.rows) for call in calls))
    return bisect_right(ends, row) if row is not None and row < ends[-1] else None


def _is_outdated(error: Exception) -> bool:
    """Whether the model may have columns by now that were not taken from what the caller gave."""
    return isinstance(error, HourglassError) and error.reason in steps.TAKEN_WRONGLY
