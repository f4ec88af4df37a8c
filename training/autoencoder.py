"""The base class of every autoencoder, and how its variants are found.

A variant is one file in training/variants/ with one subclass of Autoencoder that has a `variant` name; importing it
registers it. Nothing else needs to know.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, nn

from hourglass.contract.manifest import EMBEDDING, RECONSTRUCTION
from training import scoring, variants
from training.errors import ConfigError, nearest
from training.networks import Architecture, Network

_registry: dict[str, type[Autoencoder]] = {}


@dataclass(frozen=True)
class Clock:
    """Where a training is, for schedules. step: gradient steps done; progress: share of all epochs, in [0, 1]."""

    step: int
    progress: float


class Options(BaseModel):
    """A variant's own settings: subclass it, one described field each."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoencoder(nn.Module):
    """Rows in scaled units -> embedding -> rows in scaled units. Shapes: [n, *row_shape] <-> [n, embedding_dim]."""

    variant: ClassVar[str]
    # For people: what it is for.
    summary: ClassVar[str]
    options_class: ClassVar[type[Options]] = Options
    networks: ClassVar[tuple[Network, ...]] = ("mlp", "conv", "conv1d")
    # Whether sparsity, not size, holds the embedding: it may then be larger than the row, and is when nobody chose.
    wide: ClassVar[bool] = False
    # How embeddings are distributed a priori, None when they are not: see Manifest.prior.
    prior: ClassVar[Literal["standard_normal"] | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "variant" in cls.__dict__:
            known = _registry.setdefault(cls.variant, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"two variants are called {cls.variant!r}: {known} and {cls}")
            _registry[cls.variant] = cls

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__()
        if architecture.network not in self.networks:
            raise ConfigError(
                f"{self.variant} is not defined for --network {architecture.network}: use {' or '.join(self.networks)}"
            )
        self.architecture = architecture
        self.options = options
        self.encoder, self.decoder = self.build()

    @property
    def objective(self) -> str:
        """What is minimised with these options, in one formula for people; a class attribute will do."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it minimises: objective")

    def build(self) -> tuple[nn.Module, nn.Module]:
        """The two networks, weights drawn from torch's global generator."""
        return self.architecture.encoder(), self.architecture.decoder()

    def encode(self, rows: Tensor) -> Tensor:
        embedding: Tensor = self.encoder(rows)
        return embedding

    def decode(self, embedding: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(embedding)
        return reconstruction

    @classmethod
    def learns_missing(cls, options: Options) -> bool:
        """Whether it learns, with these options, what to make of a row whose cells are missing: by masked ones."""
        return False

    @property
    def takes_missing(self) -> bool:
        """Whether scaled rows may be NaN where a cell is missing; never images: a dark pixel is not missing."""
        return self.architecture.named and self.learns_missing(self.options)

    def embed(self, rows: Tensor) -> dict[str, Tensor]:
        """What encoder.onnx answers, by output name; nothing random."""
        return {EMBEDDING: self.encode(rows)}

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """What embed answers, the reconstruction, and what else score() reads; nothing random."""
        answers = self.embed(rows)
        return {**answers, RECONSTRUCTION: self.decode(answers[EMBEDDING])}

    def trained_networks(self) -> list[nn.Module]:
        """Those that the loss calls as a whole, [n, ...] -> [n, ...]: what --precision and --compile are for."""
        return [self.encoder, self.decoder]

    @property
    def capturable(self) -> bool:
        """Whether the loss never looks at a number on the GPU from Python, so that a step can be a CUDA graph."""
        return True

    def prepare(self, rows: Tensor, generator: Generator) -> None:
        """Look once at all training rows, before the first step; they need not be on the model's device.

        generator: the only source of chance.
        """

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        """The named parts whose sum is minimised: scalars, summed over features, averaged over the batch.

        generator: the only source of chance, on the rows' device; chance.uniform and chance.normal draw from it. A part
        that is not an average over rows, of what depends on one row each, takes batch means from parallel.mean.
        """
        reconstruction: Tensor = self(rows)[RECONSTRUCTION]
        return {"reconstruction_sse_per_row": squared_error(reconstruction, rows)}

    def settled(self, clock: Clock) -> bool:
        """Whether the loss looks at the clock no more: while a schedule changes what is minimised, no epoch is best and
        no step can be replayed."""
        return True

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        """What the field looks at besides the loss, for the record: of early-stop rows, at most 1,024, no gradients."""
        return unit_activity(self.encode(rows))

    def facts(self) -> dict[str, str]:
        """What the card says of this model besides its options."""
        return {}

    def decided(self, rows: Tensor, clear: float) -> Tensor:
        """Which rows have answers that rounding cannot change by more than rounding: bool [n]. Export proves itself on
        those. clear: two numbers that differ by more than this share of their size, no rounding swaps."""
        return torch.ones(len(rows), dtype=torch.bool)

    def score(self) -> scoring.Score:
        """The anomaly score that suits this variant."""
        return scoring.MeanSquaredError()


def squared_error(reconstruction: Tensor, rows: Tensor) -> Tensor:
    """Summed over features, averaged over the batch: a scalar."""
    return (reconstruction - rows).square().sum() / len(rows)


def unit_activity(embedding: Tensor) -> dict[str, float | list[float]]:
    """How much of an embedding, [n, embedding_dim], is in use over n rows.

    active_units: of variance above 0.01, which a seldom active sigmoid may stay below; dead_units: the same number for
    every row, to 1e-6; mean_sparsity: share of numbers within 1 % of the largest one of 0.
    """
    size = embedding.abs()
    return {
        "active_units": float(scoring.active_units(embedding)),
        "dead_units": float((embedding.amax(dim=0) - embedding.amin(dim=0) <= 1e-6).sum()),
        "mean_sparsity": (size <= 0.01 * size.max()).float().mean().item(),
    }


def registered() -> dict[str, type[Autoencoder]]:
    """Every variant by name, after importing all of training/variants/."""
    for module in pkgutil.iter_modules(variants.__path__, f"{variants.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_registry.items()))


def find(variant: str) -> type[Autoencoder]:
    """Raises ConfigError naming the nearest known variant."""
    known = registered()
    if variant not in known:
        raise ConfigError(f"unknown variant {variant!r}{nearest(variant, known)}")
    return known[variant]
