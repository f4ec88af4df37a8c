"""What the folder of models holds and in which state it is, as callers of RepositoryIndex see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.scanning import Found, Version

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
READY: State = "READY"

_NO_NUMBER = "not a version: these are 1, 2, 3, ... without a sign or leading zeros"


@dataclass(frozen=True)
class Listed:
    """One version. reason: why it is not READY, or not in its newest form; without a path."""

    name: str
    version: str
    state: State
    reason: str = ""


def listed(
    found: Mapping[str, Found | None],
    reasons: Mapping[Version, str],
    draining: Iterable[Version],
    loading: Version | None,
    live: Iterable[Version],
) -> Sequence[Listed]:
    """Each version once, in the last state that applies, by name, newest first. reasons: of what cannot be served."""

    def states() -> Iterator[Listed]:
        for name, one in found.items():
            for entry in one.no_versions if one else ():
                yield Listed(name, entry, "UNAVAILABLE", _NO_NUMBER)
        for version, reason in reasons.items():
            yield Listed(version.model, str(version.number), "UNAVAILABLE", reason)
        for version in draining:
            yield Listed(version.model, str(version.number), "UNLOADING")
        if loading:
            yield Listed(loading.model, str(loading.number), "LOADING")
        for version in live:
            yield Listed(version.model, str(version.number), READY, reasons.get(version, ""))

    last = {(one.name, one.version): one for one in states()}
    return sorted(last.values(), key=lambda one: (one.name, -int(one.version)))
