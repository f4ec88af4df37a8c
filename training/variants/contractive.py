"""The contractive autoencoder: Rifai et al. 2011, "Contractive auto-encoders: explicit invariance during feature
extraction"."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from training import chance
from training.autoencoder import Clock, Options
from training.networks import Architecture, Network
from training.reconstruction import Reconstructing, ReconstructionOptions

_MONITORED_ROWS = 256  # the exact Jacobian of a deep network has embedding_dim numbers for each number of a row


class ContractiveOptions(ReconstructionOptions):
    contraction: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="lambda: weight of the encoder's squared Jacobian norm")
    ] = 0.1
    activation: Annotated[Literal["linear", "relu", "tanh", "sigmoid"], Field(description="of the embedding")] = (
        "sigmoid"
    )
    jacobian: Annotated[
        Literal["exact", "hutchinson"],
        Field(description="how the norm is found: exact, or a random estimate, cheaper for deep networks"),
    ] = "exact"


class Contractive(Reconstructing):
    """Learns embeddings that stand still when a row moves where no other rows are.

    One layer each way unless `hidden` says otherwise, as in the paper. Weights are tied: else the penalty is met by a
    small encoder and a large decoder.
    """

    variant: ClassVar[str] = "contractive"
    summary: ClassVar[str] = "embeddings that change little under small changes of a row: robust features"
    options_class: ClassVar[type[Options]] = ContractiveOptions
    networks: ClassVar[tuple[Network, ...]] = ("mlp",)

    options: ContractiveOptions

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture.without_hidden_layers(), options)

    @property
    def objective(self) -> str:
        weight = self.options.contraction
        return f"{self.error()}, y = g(f(x)), plus {weight:g} times the squared Frobenius norm of df/dx"

    @property
    def method(self) -> str:
        """How the norm is found in training."""
        if self.options.jacobian == "hutchinson":
            return "Hutchinson's estimate of the norm, one normal vector a row"
        one_sigmoid = not self.architecture.widths and self.options.activation == "sigmoid"
        return "closed form for one sigmoid layer" if one_sigmoid else "exact, by automatic differentiation"

    def facts(self) -> dict[str, str]:
        return {"Jacobian": self.method}

    def build(self) -> tuple[nn.Module, nn.Module]:
        return self.architecture.tied()

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        code = self.encode(rows)
        parts = self.reconstruction_loss(self.decoder(code), rows)
        if self.options.jacobian == "hutchinson":
            norms = self.estimated_norms(rows, generator)
        else:
            norms = self.norms(rows, code)
        return {**parts, "contraction": self.options.contraction * norms.sum() / len(rows)}

    def norms(self, rows: Tensor, code: Tensor) -> Tensor:
        """||df/dx||_F^2 of each row: [n]."""
        if self.architecture.widths or self.options.activation != "sigmoid":
            return self.exact_norms(rows)
        (weight,) = (layer.weight for layer in self.encoder.modules() if isinstance(layer, nn.Linear))
        return (code * (1 - code)).square() @ weight.square().sum(dim=1)

    def exact_norms(self, rows: Tensor) -> Tensor:
        """By automatic differentiation, one pass back for each number of the embedding: [n]."""
        # A row's embedding depends on no other row, so the sum over rows has every row's Jacobian in it.
        jacobian: Tensor = torch.func.jacrev(lambda x: self.encode(x).sum(dim=0))(rows)
        return jacobian.square().transpose(0, 1).flatten(1).sum(dim=1)

    def estimated_norms(self, rows: Tensor, generator: Generator) -> Tensor:
        """||v df/dx||^2 with v ~ N(0, I), whose mean is the norm (Hutchinson 1990); one pass back: [n]."""
        back = torch.func.vjp(self.encode, rows)[1]
        vectors = chance.normal((len(rows), self.architecture.embedding_dim), generator)
        product: Tensor = back(vectors)[0]
        return product.square().flatten(1).sum(dim=1)

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        some = rows[:_MONITORED_ROWS]
        norms = self.norms(some, self.encode(some))
        return {**super().monitor(rows, clock), "jacobian_norm": norms.sqrt().mean().item()}
