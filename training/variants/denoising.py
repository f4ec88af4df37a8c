"""The denoising autoencoder: Vincent et al. 2008, "Extracting and composing robust features with denoising
autoencoders", and 2010, "Stacked denoising autoencoders" (section 3.3 has the three corruptions)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from training import noise
from training.autoencoder import Autoencoder, Clock, Options, squared_error
from training.networks import Architecture


class DenoisingOptions(Options):
    noise: Annotated[
        Literal["masking", "gaussian", "salt_and_pepper"],
        Field(description="how training rows are damaged"),
    ] = "masking"
    noise_level: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="share of damaged features; gaussian: standard deviation"),
    ] = 0.25

    @model_validator(mode="after")
    def _a_share_is_at_most_one(self) -> DenoisingOptions:
        if self.noise != "gaussian" and self.noise_level > 1:
            raise ValueError(f"noise_level is a share for {self.noise} noise: at most 1, not {self.noise_level:g}")
        return self


class Denoising(Autoencoder):
    """Learns to give back the clean row from a damaged one."""

    variant: ClassVar[str] = "denoising"
    summary: ClassVar[str] = "gives back the clean row from a damaged one: repair, robust embeddings"
    objective: ClassVar[str] = "mean over rows of sum over features of (x - g(f(x~)))^2, x~ the damaged x"
    options_class: ClassVar[type[Options]] = DenoisingOptions

    low: Tensor
    high: Tensor

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture, options)
        bounds = architecture.row_shape if len(architecture.row_shape) == 1 else ()
        self.register_buffer("low", torch.zeros(bounds))
        self.register_buffer("high", torch.ones(bounds))

    def prepare(self, rows: Tensor, generator: Generator) -> None:
        """Salt and pepper are the extremes of each column of a table, of all pixels of images."""
        extremes = rows.aminmax(dim=0) if rows.ndim == 2 else rows.aminmax()
        self.low.copy_(extremes.min)
        self.high.copy_(extremes.max)

    def corrupt(self, rows: Tensor, generator: Generator) -> Tensor:
        options = self.options
        assert isinstance(options, DenoisingOptions)
        if options.noise == "masking":
            return noise.masking(rows, options.noise_level, generator)
        if options.noise == "gaussian":
            return noise.gaussian(rows, options.noise_level, generator)
        return noise.salt_and_pepper(rows, options.noise_level, self.low, self.high, generator)

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        reconstruction = self.decode(self.encode(self.corrupt(rows, generator)))
        return {"reconstruction_sse_per_row": squared_error(reconstruction, rows)}
