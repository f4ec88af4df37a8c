"""When to begin a batch: not while somebody is known to come.

gRPC announces a call before its message, and takes up one call after the other, each through several turns of the
event loop. Under load, a batch begun as soon as there is something to run is of one row, and costs some 50 µs whatever
its size: with 64 callers the server did a third of a plain echo's calls, and with this nine tenths. So batches wait for
calls that have been announced and, while calls follow upon each other, for the next one to be. A lone caller waits for
nothing: this is no timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Calls are crowded when the next is announced so soon after a batch. A lone caller, who has to be answered first, needs
# more than twice as long.
_CROWDED_SECONDS = 120e-6
# More turns of the event loop than there are from one announcement to the next.
_TURNS = 24
# Waited in vain with as many as the last time, these turns show that all callers are here: the next batches of as many
# do without.
_WITHOUT = 8
# Nobody is waited for who announces a call and then takes so long to send it.
_PATIENCE_SECONDS = 1e-3
# Nor is the first to wait kept longer than this, however many come.
_LONGEST_SECONDS = 4e-3


class Arrivals:
    """Of all calls of a server; used on its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._coming = 0
        self._waiting: list[Callable[[], None]] = []
        self._looking = False
        self._turns = 0
        # Whether calls come one upon the other, and what tells: the last batch, of how many requests, and when.
        self._crowded = False
        self._together = 0
        self._begun_at: float | None = None
        self._arrived = 0  # since then
        self._without = 0  # so many batches need not wait for the next announcement
        # While somebody waits: since when, and whether anybody came lately.
        self._patience: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._moving = False

    @property
    def quiet(self) -> bool:
        """Nobody is coming, as far as anybody knows."""
        return not self._coming and not self._crowded

    def announced(self) -> None:
        """A call has begun to come in."""
        self._coming += 1
        if self._begun_at is not None:
            self._crowded = self._together > 1 or time.perf_counter() - self._begun_at < _CROWDED_SECONDS
            self._begun_at = None

    def arrived(self) -> None:
        """It is here."""
        self._coming = max(0, self._coming - 1)  # it may have been given up
        self._arrived += 1
        self._moving = True
        self._look_from_now_on()

    def begun(self, requests: int) -> None:
        """So many were put together in a batch."""
        self._together = requests
        self._begun_at = time.perf_counter()
        self._arrived = 0

    def when_quiet(self, then: Callable[[], None]) -> None:
        """Call it on a later turn of the event loop, when nobody is coming any more."""
        if not self._waiting:
            self._since = time.perf_counter()
        self._waiting.append(then)
        self._look_from_now_on()

    def _look_from_now_on(self) -> None:
        all_here = self._without and self._arrived >= self._together
        self._turns = _TURNS if self._crowded and not all_here else 0
        if self._waiting and not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if time.perf_counter() - self._since >= _LONGEST_SECONDS:
            self._tell()
        elif self._coming:
            if self._patience is None:
                self._be_patient()
        elif self._turns:
            self._turns -= 1
            if not self._turns and self._arrived == self._together:
                self._without = _WITHOUT + 1
            self._looking = True
            self._loop.call_soon(self._look)
        else:
            self._without = max(0, self._without - 1)
            self._tell()

    def _be_patient(self) -> None:
        self._moving = False
        self._patience = self._loop.call_later(_PATIENCE_SECONDS, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._moving and time.perf_counter() - self._since < _LONGEST_SECONDS:
            self._be_patient()
        else:
            self._coming = 0  # some may have gone without a word
            self._tell()

    def _tell(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            try:
                then()
            except Exception:
                log.exception("a batch could not be begun")
