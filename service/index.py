"""What the folder of models holds and in which state it is, as callers of RepositoryIndex see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from service.engine import Engine
from service.errors import NotOffered

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
READY: State = "READY"


@dataclass(frozen=True)
class Listed:
    """One version. reason: why it is not READY, without a path."""

    name: str
    version: str
    state: State
    reason: str = ""


class Repository(Protocol):
    def index(self) -> Sequence[Listed]: ...

    async def load(self, name: str) -> None:
        """What is now in the folder. Raises ServiceError."""

    async def unload(self, name: str) -> None:
        """Every version, after the calls that are under way. Raises ServiceError."""


class LoadedAtStart:
    """A repository that is read once: all that it lists is live."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def index(self) -> Sequence[Listed]:
        return [Listed(model.name, str(model.version), READY) for model in self._engine.models()]

    async def load(self, name: str) -> None:
        raise NotOffered("models are loaded when the server starts, and then no more")

    async def unload(self, name: str) -> None:
        raise NotOffered("models are unloaded when the server ends, and not before")
