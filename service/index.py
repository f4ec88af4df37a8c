"""What the folder of models holds and in which state it is, as callers of RepositoryIndex see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
READY: State = "READY"


@dataclass(frozen=True)
class Listed:
    """One version. reason: why it is not READY, without a path."""

    name: str
    version: str
    state: State
    reason: str = ""
