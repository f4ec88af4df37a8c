"""The k-sparse autoencoder: Makhzani & Frey 2013, "k-sparse autoencoders"."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from training.autoencoder import Autoencoder, Clock, Options, squared_error
from training.errors import ConfigError
from training.networks import Architecture, Network

_SCHEDULED = 0.5  # share of the epochs in which k falls to its final value


class KSparseOptions(Options):
    k: Annotated[int | None, Field(ge=1, description="active units of an embedding; not set: a quarter of them")] = None
    k_start: Annotated[
        int | None, Field(ge=1, description="k at the first step, falling to k in half the epochs; not set: 4 k")
    ] = None
    alpha: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="a served embedding has alpha k active units")
    ] = 1.0


class KSparse(Autoencoder):
    """Keeps the k largest numbers of a linear embedding, by value, and learns through those alone; weights are tied.

    One layer each way unless `hidden` says otherwise, as in the paper. k falls linearly from k_start, lest units that
    never win die; losses are of k, what is served keeps alpha k.
    """

    variant: ClassVar[str] = "k_sparse"
    summary: ClassVar[str] = "exactly k active units in each embedding: sparse features of many rows, fast to index"
    wide: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = KSparseOptions
    networks: ClassVar[tuple[Network, ...]] = ("mlp",)

    options: KSparseOptions

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture.without_hidden_layers(), options)
        width = architecture.embedding_dim
        self.k = self.options.k or max(1, width // 4)
        self.k_start = self.options.k_start or min(width, 4 * self.k)
        for name, value in (("k", self.k), ("k_start", self.k_start)):
            if value > width:
                raise ConfigError(
                    f"k_sparse option {name!r}: {value} units of an embedding of {width} cannot be active"
                )
        if self.k_start < self.k:
            raise ConfigError(f"k_sparse option 'k_start': {self.k_start} is below k, {self.k}: k falls, never rises")
        self.k_served = min(width, round(self.options.alpha * self.k))

    @property
    def objective(self) -> str:
        return (
            f"mean over rows of sum over features of (x - g(z))^2, z = f(x) with all but its {self.k} largest numbers 0"
        )

    def facts(self) -> dict[str, str]:
        return {"active units": f"{self.k_start} falling to {self.k} in training, {self.k_served} served"}

    def build(self) -> tuple[nn.Module, nn.Module]:
        return self.architecture.tied()

    def encode(self, rows: Tensor) -> Tensor:
        return largest(self.encoder(rows), self.k_served)

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        code = largest(self.encoder(rows), self.k_at(clock))
        return {"reconstruction_sse_per_row": squared_error(self.decode(code), rows)}

    def k_at(self, clock: Clock) -> int:
        done = min(1.0, clock.progress / _SCHEDULED)
        return round(self.k_start + (self.k - self.k_start) * done)

    def decided(self, rows: Tensor, clear: float) -> Tensor:
        """Not where the last unit kept and the first one dropped are as good as equal: another machine's rounding may
        keep the other one."""
        code = self.encoder(rows)
        if self.k_served == code.shape[1]:
            return super().decided(rows, clear)
        last = code.topk(self.k_served + 1, dim=1).values[:, -2:]
        decided: Tensor = last[:, 0] - last[:, 1] > clear * code.abs().amax(dim=1)
        return decided

    def settled(self, clock: Clock) -> bool:
        return self.k_at(clock) == self.k

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        return {**super().monitor(rows, clock), "k": float(self.k_at(clock))}


def largest(code: Tensor, k: int) -> Tensor:
    """[n, width]: the k largest numbers of each row, the others 0. Of equal ones no more than k are kept."""
    values, places = code.topk(k, dim=1)
    return torch.zeros_like(code).scatter(1, places, values)
