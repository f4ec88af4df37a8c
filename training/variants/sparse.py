"""The sparse autoencoder: Ng 2011, "Sparse autoencoder", CS294A lecture notes.

The notes' exercise has rho 0.01, beta 3, weight decay 1e-4 and 25 units on 8 x 8 patches, with half the squared error;
0.05 is the notes' example. Here the whole squared error counts, so the notes' beta is half of ours.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor

from training import parallel
from training.autoencoder import Clock, Options
from training.networks import Architecture
from training.variants.basic import Basic, BasicOptions

_KEPT = 0.9  # of the running mean activation at each step: it remembers about ten batches
_FIRST_ROWS = 4096
_EDGE = 1e-6  # keeps logarithms finite where a sigmoid has rounded to 0 or 1


class SparseOptions(BasicOptions):
    rho: Annotated[float, Field(gt=0, lt=1, description="mean activation that each unit is held to")] = 0.05
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False, description="weight of the sparsity penalty")] = 3.0
    activation: Annotated[
        Literal["linear", "relu", "tanh", "sigmoid"],
        Field(description="of the embedding: sigmoid, for the penalty needs (0, 1)"),
    ] = "sigmoid"

    @field_validator("activation")
    @classmethod
    def _between_zero_and_one(cls, activation: str) -> str:
        if activation != "sigmoid":
            raise ValueError(
                "KL sparsity compares mean activations with rho as probabilities, so they must lie in (0, 1): "
                "take sigmoid"
            )
        return activation


class Sparse(Basic):
    """Learns units that are seldom active; there may be more of them than features.

    A fully connected network has one layer each way unless `hidden` says otherwise, as in the notes. The mean
    activation of a unit, rhohat, is a running mean over batches; its gradient is that of the current batch's mean.
    """

    variant: ClassVar[str] = "sparse"
    summary: ClassVar[str] = "units that are seldom active, by a KL penalty: parts-like features, wide embeddings"
    wide: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = SparseOptions

    options: SparseOptions
    rhohat: Tensor

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture.without_hidden_layers(), options)
        self.register_buffer("rhohat", torch.full((architecture.embedding_dim,), self.options.rho))
        # Units that begin near rho need not be driven there from one half, through a sigmoid's flat end.
        with torch.no_grad():
            *_, bias = self.encoder.parameters()
            bias.fill_(math.log(self.options.rho / (1 - self.options.rho)))

    @property
    def objective(self) -> str:
        rho, beta = self.options.rho, self.options.beta
        return (
            f"{super().objective}, plus {beta:g} sum over units of KL({rho:g} || rhohat), "
            "rhohat the running mean of a unit's sigmoid activation"
        )

    def prepare(self, rows: Tensor, generator: Generator) -> None:
        """rhohat begins as the mean over some thousand rows."""
        with torch.no_grad():
            some = rows[:_FIRST_ROWS].to(self.rhohat.device)
            self.rhohat.copy_(self.encode(some).mean(dim=0))

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        code = self.encode(rows)
        parts = self.reconstruction_loss(self.decoder(code), rows)
        return {**parts, "sparsity_kl": self.options.beta * kl(self.options.rho, self._mean_activation(code))}

    def _mean_activation(self, code: Tensor) -> Tensor:
        """rhohat after this batch, with the batch mean's gradient; as it stands when not in training."""
        if not self.training:
            return self.rhohat
        mean = parallel.mean(code.mean(dim=0))
        self.rhohat.lerp_(mean.detach(), 1 - _KEPT)
        return mean + (self.rhohat - mean).detach()

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        code = self.encode(rows)
        rhohat = code.mean(dim=0)
        return {
            **super().monitor(rows, clock),
            "rhohat_mean": rhohat.mean().item(),
            "rhohat_min": rhohat.min().item(),
            "rhohat_max": rhohat.max().item(),
        }


def kl(rho: float, rhohat: Tensor) -> Tensor:
    """Sum over units of KL(Bernoulli(rho) || Bernoulli(rhohat)), in nats: a scalar."""
    rhohat = rhohat.clamp(_EDGE, 1 - _EDGE)
    wanted = torch.full_like(rhohat, rho)
    return (wanted * (wanted / rhohat).log() + (1 - wanted) * ((1 - wanted) / (1 - rhohat)).log()).sum()
