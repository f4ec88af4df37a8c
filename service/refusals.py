"""Versions that cannot be served: why, and when each is tried again.

At once when its files change, and else ever more seldom: memory or threads may have been missing, or its files replaced
by ones that look the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from service.scanning import Signature, Version

# A file that changed so lately may change again without a trace: some file systems count whole seconds.
_FRESH_SECONDS = 2.0
# Before a version whose files stay as they are is tried again: doubled from one to the other.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


@dataclass(frozen=True)
class _Refusal:
    """at_once: whether the next look is to try it again. after: when it is tried in any case, and pause: how long that
    was."""

    signature: Signature
    reason: str
    at_once: bool
    after: float
    pause: float


class Refusals:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: dict[Version, _Refusal] = {}

    def add(self, version: Version, signature: Signature, reason: str, *, may_change: bool) -> bool:
        """Returns whether the reason is news. may_change: without a change of the signature."""
        before = self._of.get(version)
        pause = _SHORTEST_PAUSE
        if before and before.signature == signature:
            pause = min(2 * before.pause, _LONGEST_PAUSE)
        at_once = may_change or _is_fresh(signature)
        self._of[version] = _Refusal(signature, reason, at_once, self._clock() + pause, pause)
        return before is None or before.reason != reason

    def stands(self, version: Version, signature: Signature) -> bool:
        """Whether it was refused with these files, and is not to be tried yet."""
        one = self._of.get(version)
        return one is not None and one.signature == signature and not self._is_due(one)

    def due(self) -> set[str]:
        """Models of which a version is to be tried again."""
        return {version.model for version, one in self._of.items() if self._is_due(one)}

    def forget(self, version: Version) -> None:
        self._of.pop(version, None)

    def forget_model(self, model: str, but: Container[int] = ()) -> bool:
        """All its versions but those of these numbers. Returns whether there were any."""
        gone = [version for version in self._of if version.model == model and version.number not in but]
        for version in gone:
            del self._of[version]
        return bool(gone)

    @property
    def versions(self) -> frozenset[Version]:
        return frozenset(self._of)

    @property
    def reasons(self) -> Mapping[Version, str]:
        return {version: one.reason for version, one in self._of.items()}

    def __contains__(self, version: Version) -> bool:
        return version in self._of

    def _is_due(self, one: _Refusal) -> bool:
        return one.at_once or one.after <= self._clock()


def _is_fresh(signature: Signature) -> bool:
    changed = max((nanoseconds for _, _, nanoseconds, _ in signature), default=0) / 1e9
    return abs(time.time() - changed) < _FRESH_SECONDS
