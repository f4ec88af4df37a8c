"""What the anomaly benchmark compares: ours, as a user would fit it, and PyOD's, each with its default settings."""

from __future__ import annotations

import importlib.metadata
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from rich.console import Console

from benchmarks.anomaly_ablation import IdentityModel
from benchmarks.anomaly_data import Protocol, Split
from benchmarks.peers import REQUIREMENTS, Peer
from hourglass.contract import layout
from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import MODEL, SCORE
from training.autoencoder import find
from training.config import FitConfig
from training.fit import fit
from training.progress import Progress
from training.runtime import Graph

import torch  # isort: skip  (training sets how OpenMP waits, before torch is loaded)


class Cost(BaseModel):
    """Seconds by the clock and of the processor, all cores; what they were spent with.

    publish_seconds: of fit_seconds, those after the model is trained and its score has learned.
    """

    fit_seconds: float
    fit_processor_seconds: float
    publish_seconds: float = 0.0
    publish_processor_seconds: float = 0.0
    score_seconds: float
    threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Fitted:
    """score: float32 [n, columns] -> float [n], higher is more anomalous; calibration: None where there is none.

    publish_seconds, publish_processor_seconds: as Cost's.
    """

    score: Callable[[np.ndarray], np.ndarray]
    calibration: Calibration | None
    publish_seconds: float = 0.0
    publish_processor_seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """scores: float [m] of the test rows."""

    scores: np.ndarray
    fitted: Fitted | None
    cost: Cost


@dataclass(frozen=True)
class Method:
    """settings: everything besides the data and the seed that the scores follow from, for a protocol."""

    name: str
    settings: Callable[[Protocol], dict[str, Any]]
    measure: Callable[[Split, Protocol, int], Measured]


# PyOD's class, its settings, and whether it draws random numbers.
_PYOD: Mapping[str, tuple[str, Mapping[str, Any], bool]] = {
    "PyOD AutoEncoder": ("AutoEncoder", {"verbose": 0}, True),
    "PyOD VAE": ("VAE", {"verbose": 0}, True),
    "PyOD KNN": ("KNN", {"n_neighbors": 5}, False),
    "PyOD IForest": ("IForest", {}, True),
    "PyOD ECOD": ("ECOD", {}, False),
    "PyOD PCA 90 %": ("PCA", {"n_components": 0.9}, True),
}
PEERS = tuple(_PYOD)
_PACKAGES = ("hourglass-serving", "torch", "onnxruntime", "numpy")


class _Timed(Progress):
    """Shows nothing; how long the one step of a fit takes that follows its training, which is to publish."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.seconds = self.processor_seconds = 0.0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        processor, started = time.process_time(), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
        self.processor_seconds += time.process_time() - processor


def _published(_train: np.ndarray, config: FitConfig) -> Fitted:
    """What `hourglass-train fit` publishes, asked as a server asks it."""
    timed = _Timed()
    version = fit(config, timed)
    artefact = layout.read(config.exported, config.name, int(version.name), (MODEL,))
    graph = Graph(artefact.files[MODEL])
    return Fitted(
        lambda rows: graph.run_all(rows)[SCORE],
        artefact.manifest.calibration,
        timed.seconds,
        timed.processor_seconds,
    )


def _identity(train: np.ndarray, config: FitConfig) -> Fitted:
    model = IdentityModel(train, config)
    return Fitted(model.score, model.calibration)


# Each is given the training rows, float32 [n, columns], and a config that names a file of them.
_OURS: Mapping[str, Callable[[np.ndarray, FitConfig], Fitted]] = {
    "hourglass": _published,
    "identity, same score": _identity,
}
OURS = tuple(_OURS)


def methods(stack: ExitStack) -> dict[str, Method]:
    """By name, ours first. PyOD's process starts with its first question and ends with `stack`."""

    @cache
    def pyod() -> Peer:
        return stack.enter_context(Peer("pyod", "anomaly_worker.py"))

    every = [_our(name, fitter) for name, fitter in _OURS.items()]
    every += [_peer(name, pyod, *what) for name, what in _PYOD.items()]
    return {method.name: method for method in every}


def _our(name: str, fitter: Callable[[np.ndarray, FitConfig], Fitted]) -> Method:
    def settings(protocol: Protocol) -> dict[str, Any]:
        config = _config(Path("rows.npy"), protocol, 0)
        shared = config.model_dump(mode="json", exclude={"data", "name", "seed", "exported", "runs"})
        shared["options"] = find(config.variant).options_class().model_dump(mode="json")
        return {"method": name, **shared, "versions": _versions()}

    @cache
    def warm_up() -> None:  # the first fit of a process is slow
        once(np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32), "clean", 0)

    def once(train: np.ndarray, protocol: Protocol, seed: int) -> Fitted:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.npy")
            np.save(file, train)
            return fitter(train, _config(file, protocol, seed))

    def measure(split: Split, protocol: Protocol, seed: int) -> Measured:
        warm_up()
        processor, started = time.process_time(), time.perf_counter()
        fitted = once(split.train, protocol, seed)
        processor_ended, fit_ended = time.process_time(), time.perf_counter()
        scores = fitted.score(split.test)
        ended = time.perf_counter()
        cost = Cost(
            fit_seconds=fit_ended - started,
            fit_processor_seconds=processor_ended - processor,
            publish_seconds=fitted.publish_seconds,
            publish_processor_seconds=fitted.publish_processor_seconds,
            score_seconds=ended - fit_ended,
            threads=torch.get_num_threads(),
            versions=_versions(),
        )
        return Measured(scores, fitted, cost)

    return Method(name, settings, measure)


def _config(rows: Path, protocol: Protocol, seed: int) -> FitConfig:
    mixed = (
        {"training_data": "mixed"} if protocol == "contaminated" and "training_data" in FitConfig.model_fields else {}
    )
    folders = {"exported": rows.with_name("exported"), "runs": rows.with_name("runs")}
    return FitConfig.model_validate({"data": str(rows), "name": "benchmark", "seed": seed, **folders, **mixed})


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


def _peer(name: str, pyod: Callable[[], Peer], detector: str, settings: Mapping[str, Any], random: bool) -> Method:
    def measure(split: Split, protocol: Protocol, seed: int) -> Measured:
        seeded = {**settings, "random_state": seed} if random else settings
        with tempfile.TemporaryDirectory() as folder:
            files = {part: str(Path(folder, f"{part}.npy")) for part in ("train", "test", "scores")}
            np.save(files["train"], split.train)
            np.save(files["test"], split.test)
            answer = pyod().ask(json.dumps({"detector": detector, "settings": seeded, **files}))
            return Measured(np.load(files["scores"]), None, Cost.model_validate_json(answer))

    return Method(name, lambda protocol: {"method": name, **settings, "requirements": REQUIREMENTS["pyod"]}, measure)
