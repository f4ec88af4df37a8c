"""What a reproduction of a published result is: claims, recipes, and one run of a seed.

A reproduction is one file in training/reproductions/ with one subclass of Reproduction; importing it registers it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hourglass.files import FileError, open_rows
from training import reproductions
from training.autoencoder import Autoencoder
from training.config import FitConfig, validated
from training.data import Dataset, Splits
from training.errors import ConfigError, DataError, nearest
from training.export import Trained, export
from training.fit import build, learned, train
from training.probe import Classifier, Labelled, Settings, linear_probe
from training.progress import Progress
from training.run import Run
from training.scaling import Scaling

Budget = Literal["cpu", "gpu"]
Range = tuple[float, float]  # both ends included

WHITE = 255.0  # of MNIST's grey levels
_VALIDATION = 10_000  # of MNIST's 60,000; the first half chooses epochs, the second calibrates the published model
_READ_ROWS = 8192
_registry: dict[str, type[Reproduction]] = {}


@dataclass(frozen=True)
class Claim:
    """One number of a result. Numbers without a reference are controls and checks.

    metric: its key in what run() returns; reference: what others report; confidence: A read in a primary source, B in
    an independent text that quotes it, C from memory, D derived from such; expected: what the mean over seeds must lie
    between; goal: what a longer recipe is for; gain: whether the mean should exceed 0 by more than 2 standard errors.
    """

    metric: str
    meaning: str
    reference: float | None = None
    source: str = ""
    confidence: Literal["A", "B", "C", "D"] | None = None
    expected: Range | None = None
    goal: Range | None = None
    gain: bool = False


def at_most(value: float) -> Range:
    return -math.inf, value


def at_least(value: float) -> Range:
    return value, math.inf


class Reproduction(ABC):
    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    # What differs from the paper, and why; what else a reader should know.
    remarks: ClassVar[str]
    claims: ClassVar[tuple[Claim, ...]]
    # By budget, every setting that the run uses; results belong to the recipe that made them. A fit's are FitConfig's.
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _registry[cls.name] = cls

    @abstractmethod
    def run(self, bench: Bench) -> dict[str, float]:
        """One seed, from data to the test set's numbers by metric. Interrupted, it goes on where it was."""

    @classmethod
    def recipe(cls, budget: Budget) -> Mapping[str, Any]:
        """Raises ConfigError."""
        if budget not in cls.recipes:
            raise ConfigError(f"{cls.name} has no recipe for --budget {budget}: use {' or '.join(cls.recipes)}")
        return cls.recipes[budget]


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """8 hex digits that change when any number of the recipe does."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def registered() -> dict[str, type[Reproduction]]:
    """Every reproduction by name, after importing all of training/reproductions/."""
    for module in pkgutil.iter_modules(reproductions.__path__, f"{reproductions.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_registry.items()))


def find(name: str) -> type[Reproduction]:
    """Raises ConfigError naming the nearest known reproduction."""
    known = registered()
    if name not in known:
        raise ConfigError(f"unknown reproduction {name!r}{nearest(name, known)}")
    return known[name]


@dataclass(frozen=True)
class Mnist:
    """Images float32 [n, 28, 28], grey levels 0 to 255, in the order of the files: 50,000 to learn from, 10,000 to
    choose with. The test set is another method of Bench, for the last lines of a run."""

    train: Labelled
    validation: Labelled


class Bench:
    """What a run works with: one seed, a recipe, the data, and a folder that keeps what is done.

    data: None when there is none; a run that asks for it is refused. pictures: for the page, beside the records.
    device: to train on; what is trained is then on the processor.
    """

    def __init__(
        self,
        name: str,
        recipe: Mapping[str, Any],
        seed: int,
        *,
        data: Path | None,
        folder: Path,
        exported: Path,
        pictures: Path,
        progress: Progress,
        device: torch.device,
    ) -> None:
        self.name, self.recipe, self.seed, self.pictures, self.device = name, recipe, seed, pictures, device
        # By name, the sha256 of what was read.
        self.data_sha256: dict[str, str] = {}
        self._data, self._folder, self._exported, self._progress = data, folder, exported, progress

    @cached_property
    def mnist(self) -> Mnist:
        everything = self._read("train")
        kept = len(everything) - _VALIDATION
        return Mnist(
            Labelled(everything.rows[:kept], everything.labels[:kept]),
            Labelled(everything.rows[kept:], everything.labels[kept:]),
        )

    def test_set(self) -> Labelled:
        """The 10,000 test images, grey levels 0 to 255."""
        return self._read("t10k")

    def _read(self, part: str) -> Labelled:
        """Raises ConfigError, DataError."""
        if self._data is None:
            raise ConfigError("--data DIR (or HOURGLASS_DATA) names the folder with mnist/, as its makers publish it")
        images, labels = [], []
        try:
            file = open_rows(self._data / "mnist" / f"{part}-images-idx3-ubyte.gz")
            for batch in file.batches(_READ_ROWS):
                images.append(batch.numbers())
                labels.append(batch.column("label").to_numpy())
        except FileError as error:
            raise DataError(f"{error}; --data DIR names a folder with mnist/, as its makers publish it") from None
        found = Labelled(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)).long())
        numbers = (found.rows.numpy().astype(np.uint8), found.labels.numpy().astype(np.uint8))
        self.data_sha256[f"mnist {part}"] = hashlib.sha256(b"".join(part.tobytes() for part in numbers)).hexdigest()
        return found

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def fit(self, part: str, rows: Tensor, validation: Tensor) -> Trained:
        """Train the recipe's model of this name, or take up where an interrupted run left it.

        rows, validation: float32 [n, *row_shape] in input units; the first half of validation chooses the best epoch,
        the other calibrates. Patience is all epochs. Raises RunError when the interrupted run was another's.
        """
        early_stop, calibration = validation.chunk(2)
        dataset = Dataset.of(self.name, torch.cat([rows, validation]).numpy(), None)
        config = self._config(part).filled(tuple(rows.shape[1:]))
        run = Run.at(self._folder / part, config, dataset)
        scaling = Scaling.of(rows)
        train(run, scaling(rows), scaling(early_stop), self._progress)
        return learned(run, run.checkpoint, dataset, Splits(rows, early_stop, calibration))

    def _config(self, part: str) -> FitConfig:
        settings = self.recipe[part]
        own = {
            "data": self.name,
            "name": f"{self.name}-{part}",
            "seed": self.seed,
            "patience": settings["epochs"],
            "device": str(self.device),
        }
        return validated(FitConfig, {**own, **settings}, "setting")

    def untrained(self, part: str, row_shape: tuple[int, ...]) -> Autoencoder:
        """The network that `fit` of this name begins with."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build(self._config(part), row_shape).eval()

    def classifiers(self) -> list[Settings]:
        """The recipe's, of which validation chooses one."""
        return [Settings(**settings) for settings in self.recipe["classifiers"]]

    def probe(self, features: Callable[[Tensor], Tensor]) -> Classifier:
        """The best of the recipe's linear classifiers on what `features` makes of MNIST's images."""
        train, validation = self.mnist.train.mapped(features), self.mnist.validation.mapped(features)
        return linear_probe(train, validation, self.seed, self.classifiers())

    def publish(self, trained: Trained) -> None:
        """As `hourglass-train fit` does. The last step of a run: done again, it would be another version."""
        with self._progress.step(f"exporting {trained.config.name}"):
            export(trained, self._exported)

    def say(self, text: str) -> None:
        self._progress.say(text)

    def bar(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Gives the function to call with what has been done since its last call."""
        return self._progress.bar(what, total)


def embed(trained: Trained, rows: Tensor) -> Tensor:
    """Embeddings of rows in input units: [n, embedding_dim]."""
    return trained.served.autoencoder.encode(trained.served.scaling(rows))
