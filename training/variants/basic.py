"""The plain autoencoder: Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks"."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Generator, Tensor, nn

from training.autoencoder import Clock, Options
from training.reconstruction import Reconstructing, ReconstructionOptions


class BasicOptions(ReconstructionOptions):
    tied: Annotated[bool, Field(description="decoder weights are the encoder's, transposed (mlp only)")] = False


class Basic(Reconstructing):
    """Learns to repeat its input through a bottleneck."""

    variant: ClassVar[str] = "basic"
    summary: ClassVar[str] = "repeats its input through a bottleneck: compression, embeddings, anomaly scores"
    options_class: ClassVar[type[Options]] = BasicOptions

    options: BasicOptions

    @property
    def objective(self) -> str:
        return f"{self.error()}, y = g(f(x))"

    def build(self) -> tuple[nn.Module, nn.Module]:
        return self.architecture.tied() if self.options.tied else super().build()

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        return self.reconstruction_loss(self.decoder(self.encode(rows)), rows)
