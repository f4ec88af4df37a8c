"""Threads that run batches, each started when it is first needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class Runners:
    """Unlike a ThreadPoolExecutor's, work is never left in the queue of a pool whose thread could not be started: it
    would wait for ever."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[Thread] = []
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, work: Callable[[], None], under_way: int) -> None:
        """work must not raise. under_way: how much was submitted and is not done. Raises RuntimeError where there is no
        thread and none can be started."""
        if under_way >= len(self._threads) < self._most:
            thread = Thread(target=self._run, name="runner", daemon=True)
            # With one thread at least it only takes longer.
            with contextlib.suppress(*([RuntimeError] if self._threads else [])):
                thread.start()
                self._threads.append(thread)
        self._work.put(work)

    def close(self) -> None:
        """Waits for what was submitted."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
