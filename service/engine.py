"""Which model answers: a name and a version to live sessions, looked up in an immutable snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hourglass.contract.manifest import EMBEDDING, RECONSTRUCTION, SCORE, Manifest
from service.batcher import Batcher
from service.errors import ModelNotFound


@dataclass(frozen=True)
class LiveModel:
    """A version that is loaded and has proven itself."""

    name: str
    version: int
    manifest: Manifest
    device: str
    encoder: Batcher
    full: Batcher

    async def embed(self, rows: np.ndarray, timeout: float | None) -> np.ndarray:
        """float32 [n, *row_shape] -> [n, embedding_size]. Errors as Batcher.submit, here and below."""
        answer = await self.encoder.submit(rows, (EMBEDDING,), timeout)
        return answer[EMBEDDING]

    async def denoise(self, rows: np.ndarray, timeout: float | None) -> np.ndarray:
        """float32 [n, *row_shape] -> the same shape and units."""
        answer = await self.full.submit(rows, (RECONSTRUCTION,), timeout)
        return answer[RECONSTRUCTION]

    async def score(self, rows: np.ndarray, timeout: float | None) -> np.ndarray:
        """float32 [n, *row_shape] -> [n]."""
        answer = await self.full.submit(rows, (SCORE,), timeout)
        return answer[SCORE]

    async def close(self) -> None:
        await self.encoder.close()
        await self.full.close()


class Engine:
    """The live models. The snapshot is replaced whole, never changed: a request sees one state of the world."""

    def __init__(self, models: Sequence[LiveModel] = ()) -> None:
        self.replace(models)

    def replace(self, models: Sequence[LiveModel]) -> None:
        newest_first = sorted(models, key=lambda model: (model.name, -model.version))
        snapshot: dict[str, dict[int, LiveModel]] = {}
        for model in newest_first:
            snapshot.setdefault(model.name, {})[model.version] = model
        self._snapshot: Mapping[str, Mapping[int, LiveModel]] = MappingProxyType(snapshot)

    def models(self) -> list[LiveModel]:
        """Every live version, by name, newest first."""
        return [model for versions in self._snapshot.values() for model in versions.values()]

    def get(self, name: str, version: int = 0) -> LiveModel:
        """version 0: the newest. Raises ModelNotFound."""
        versions = self._snapshot.get(name)
        if not versions:
            raise ModelNotFound(
                f"there is no model {name[:64]!r} here; ListModels names those there are", field="model"
            )
        if version == 0:
            return next(iter(versions.values()))
        if version not in versions:
            loaded = ", ".join(map(str, versions))
            raise ModelNotFound(
                f"version {version} of {name!r} is not loaded; loaded: {loaded} (the server's --versions decides)",
                field="version",
            )
        return versions[version]
