"""Which model answers: a name and a version to live sessions, looked up in an immutable snapshot."""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import MappingProxyType

import numpy as np

from hourglass.contract.drift import Sketch
from hourglass.contract.manifest import (
    CLIPPED,
    DECODER,
    EMBEDDING,
    EMBEDDING_STDDEV,
    ENCODER,
    FEATURE_ERROR,
    MODEL,
    RECONSTRUCTION,
    RECONSTRUCTION_ERROR,
    SCORE,
    Manifest,
)
from service.batcher import Batcher
from service.drift import Tracker
from service.errors import ModelNotFound, Unsupported
from service.lanes import Lanes
from service.metrics import Scored
from service.pieces import Answer
from service.scoring import MISSING, P_VALUE, UNKNOWN

_EMBEDDINGS = frozenset((EMBEDDING, EMBEDDING_STDDEV))
_DENOISE = (RECONSTRUCTION,)
_SCORE = (SCORE, P_VALUE, RECONSTRUCTION_ERROR, CLIPPED, MISSING, UNKNOWN)
_EXPLAIN = (*_SCORE, FEATURE_ERROR, RECONSTRUCTION)
_LONGEST_NAME = 64
# The nearest name is looked for among so many: other calls wait for it.
_MOST_NAMES = 100


@dataclass(frozen=True)
class LiveModel:
    """A version that is loaded and has proven itself. Errors of its methods: those of Batcher.submit."""

    name: str
    version: int
    manifest: Manifest
    device: str
    # One for each graph: MODEL, ENCODER, DECODER.
    batchers: Mapping[str, Batcher]
    # The same graphs on a GPU; empty on the CPU.
    lanes: Mapping[str, Lanes]
    # Whether traffic drifts; None where that is not known or not asked.
    drift: Tracker | None
    scored: Scored

    async def embed(self, rows: np.ndarray, timeout: float | None, *, with_stddev: bool = False) -> Answer:
        """float32 [n, *row_shape] -> EMBEDDING and, if asked, EMBEDDING_STDDEV, [n, embedding_size] each.

        Raises Unsupported when asked for the deviation of a model without a prior.
        """
        if with_stddev:
            self._check_prior("its embeddings have no standard deviation")
        outputs = (EMBEDDING, EMBEDDING_STDDEV) if with_stddev else (EMBEDDING,)
        return await self.batchers[ENCODER].submit(rows, outputs, timeout)

    async def denoise(self, rows: np.ndarray, timeout: float | None) -> np.ndarray:
        """float32 [n, *row_shape] -> the same shape and units."""
        return (await self.batchers[MODEL].submit(rows, _DENOISE, timeout))[RECONSTRUCTION]

    async def score(self, rows: np.ndarray, timeout: float | None, *, explain: bool = False) -> Answer:
        """float32 [n, *row_shape] -> SCORE, P_VALUE, RECONSTRUCTION_ERROR, CLIPPED, MISSING and UNKNOWN, [n] each; and
        if asked to explain them, FEATURE_ERROR and RECONSTRUCTION, [n, *row_shape]."""
        return await self.batchers[MODEL].submit(rows, _EXPLAIN if explain else _SCORE, timeout)

    async def infer(
        self,
        rows: np.ndarray,
        outputs: Sequence[str],
        timeout: float | None,
        *,
        patience: float | None = None,
        urgent: bool = False,
    ) -> Answer:
        """float32 [n, *row_shape] -> the outputs, of model.onnx and those that are worked out of them (P_VALUE, with
        SCORE; MISSING, UNKNOWN), by the smallest graph that has them. patience, urgent: as of Batcher.submit."""
        file = ENCODER if _EMBEDDINGS.issuperset(outputs) else MODEL
        return await self.batchers[file].submit(rows, outputs, timeout, patience=patience, urgent=urgent)

    async def decode(self, embeddings: np.ndarray, timeout: float | None) -> np.ndarray:
        """float32 [n, embedding_size] -> [n, *row_shape], in input units."""
        return (await self.batchers[DECODER].submit(embeddings, (RECONSTRUCTION,), timeout))[RECONSTRUCTION]

    async def generate(self, rows: int, seed: int, timeout: float | None) -> np.ndarray:
        """Decoded draws from the prior, float32 [rows, *row_shape]. Raises Unsupported without a prior."""
        self._check_prior("there is nothing to draw new rows from")
        draws = np.random.Generator(np.random.Philox(seed))
        embeddings = draws.standard_normal((rows, self.manifest.embedding_size), dtype=np.float32)
        return await self.decode(embeddings, timeout)

    @property
    def sketch(self) -> Sketch:
        """Of the calibration rows. Raises Unsupported where the version was made without one."""
        if self.manifest.drift is None:
            raise Unsupported(
                f"version {self.version} of {self.name!r} says nothing of how its calibration rows are distributed: "
                "hourglass-train calibrate gives it one",
                reason="NO_SKETCH",
            )
        return self.manifest.drift

    def on_release(self, then: Callable[[], None]) -> None:
        """Call it, on whatever thread, once nobody holds this version any more: calls hold theirs until they are
        answered, so that none ever meets a batcher that is closed."""
        weakref.finalize(self, then).atexit = False

    def closer(self) -> Callable[[], Awaitable[None]]:
        """What frees its threads and memory. Does not hold this object itself."""
        return partial(_close, self.batchers, self.lanes)

    def _check_prior(self, so: str) -> None:
        if self.manifest.prior is None:
            raise Unsupported(f"{self.name!r} is a {self.manifest.variant} autoencoder, without a prior: {so}")


async def _close(batchers: Mapping[str, Batcher], lanes: Mapping[str, Lanes]) -> None:
    for batcher in batchers.values():
        await batcher.close()
    for lane in lanes.values():
        lane.close()


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

    def get(self, name: str, version: int = 0, space: str = "") -> LiveModel:
        """version 0: the newest. Raises ModelNotFound; Unsupported when its embedding space is not the one that is
        required, where one is."""
        model = self._find(name, version)
        if space and space != model.manifest.embedding_space_id:
            others = self._snapshot[name].values()
            has_it = next((m.version for m in others if m.manifest.embedding_space_id == space), None)
            instead = "no loaded version has it" if has_it is None else f"version {has_it} has it: name that"
            raise Unsupported(
                f"version {model.version} of {name!r} has the embedding space {model.manifest.embedding_space_id}, not "
                f"the required {space[:64]!r}; {instead}",
                reason="OTHER_SPACE",
                field="require_space_id",
            )
        return model

    def _find(self, name: str, version: int) -> LiveModel:
        versions = self._snapshot.get(name)
        if not versions:
            asked = name[:_LONGEST_NAME]
            nearest = difflib.get_close_matches(asked, list(islice(self._snapshot, _MOST_NAMES)), 1)
            hint = f": did you mean {nearest[0]!r}?" if nearest else ";"
            raise ModelNotFound(
                f"there is no model {asked!r} here{hint} ListModels (`hourglass models`) names those there are",
                field="model",
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
