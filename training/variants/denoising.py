"""The denoising autoencoder: Vincent et al. 2008, "Extracting and composing robust features with denoising
autoencoders", and 2010, "Stacked denoising autoencoders" (section 3.3: corruptions; 4.2: the emphasised loss)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from training import noise
from training.autoencoder import Clock, Options
from training.errors import nearest
from training.networks import Architecture
from training.noise import Damaged
from training.variants.basic import Basic, BasicOptions

NOISES = ("masking", "gaussian", "salt_and_pepper")


class DenoisingOptions(BasicOptions):
    noise: Annotated[
        str,
        Field(description="damage to training rows: masking, gaussian, salt_and_pepper or your own module:function"),
    ] = "masking"
    noise_level: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="share of damaged features; gaussian: standard deviation"),
    ] = 0.25
    damaged_weight: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="alpha: weight of damaged features in the loss")
    ] = 1.0
    clean_weight: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="beta: weight of the other features in the loss")
    ] = 1.0

    @property
    def own(self) -> bool:
        """Whether the corruption is a function of the user's."""
        return ":" in self.noise

    @property
    def emphasised(self) -> bool:
        return (self.damaged_weight, self.clean_weight) != (1, 1)

    @model_validator(mode="after")
    def _fits(self) -> DenoisingOptions:
        if self.own:
            module, _, function = self.noise.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), function)):
                raise ValueError(f"noise {self.noise!r} is not module:function")
            if "noise_level" in self.model_fields_set:
                raise ValueError(f"noise_level is not for noise {self.noise!r}: the function knows its own")
        elif self.noise not in NOISES:
            raise ValueError(f"unknown noise {self.noise!r}{nearest(self.noise, NOISES)}; or module:function")
        elif self.noise != "gaussian" and self.noise_level > 1:
            raise ValueError(f"noise_level is a share for {self.noise} noise: at most 1, not {self.noise_level:g}")
        if self.noise == "gaussian" and self.emphasised:
            raise ValueError("gaussian noise damages every feature: leave damaged_weight and clean_weight out")
        if self.damaged_weight == self.clean_weight == 0:
            raise ValueError("damaged_weight and clean_weight are both 0: nothing would be learned")
        return self


class Denoising(Basic):
    """Learns to give back the clean row from a damaged one."""

    variant: ClassVar[str] = "denoising"
    summary: ClassVar[str] = "gives back the clean row from a damaged one: repair, robust embeddings"
    options_class: ClassVar[type[Options]] = DenoisingOptions

    options: DenoisingOptions
    low: Tensor
    high: Tensor
    columns: Tensor
    first_of_columns: Tensor

    def __init__(self, architecture: Architecture, options: Options) -> None:
        marked = architecture.named and self.learns_missing(options)
        super().__init__(replace(architecture, marked=marked), options)
        bounds = architecture.row_shape[-1:] if architecture.named else ()
        self.register_buffer("low", torch.zeros(bounds))
        self.register_buffer("high", torch.ones(bounds))
        self._own = noise.imported(self.options.noise) if self.options.own else None
        self.register_buffer("columns", architecture.columns, persistent=False)
        first = architecture.columns.diff(prepend=torch.tensor([-1])).nonzero().flatten()
        self.register_buffer("first_of_columns", first, persistent=False)

    @property
    def objective(self) -> str:
        damage = f"x~ the x damaged by {self.options.noise}"
        if not self.options.emphasised:
            return f"{self.error()}, y = g(f(x~)), {damage}"
        weights = f"w = {self.options.damaged_weight:g} for damaged features, {self.options.clean_weight:g} for others"
        return f"{self.error('w ')}, y = g(f(x~)), {damage}, {weights}"

    @property
    def capturable(self) -> bool:
        return self._own is None  # what it returns is looked at

    @classmethod
    def learns_missing(cls, options: Options) -> bool:
        assert isinstance(options, DenoisingOptions)
        return options.noise == "masking" and not options.tied

    def encode(self, rows: Tensor) -> Tensor:
        return super().encode(self.seen(self.filled(rows), rows.isnan()) if self.takes_missing else rows)

    def filled(self, rows: Tensor) -> Tensor:
        """What is missing is 0, as what is masked."""
        return torch.where(rows.isnan(), 0, rows) if self.takes_missing else rows

    def seen(self, rows: Tensor, missing: Tensor) -> Tensor:
        """What the encoder takes. rows: [n, ..., numbers] without NaN; missing: bool, the same shape: masked, too."""
        if not self.takes_missing:
            return rows
        return torch.cat([rows, missing.index_select(-1, self.first_of_columns).float()], dim=-1)

    def prepare(self, rows: Tensor, generator: Generator) -> None:
        """Salt and pepper are the extremes of each column of a table or of windows, of all pixels of images."""
        rows = self.filled(rows)
        extremes = rows.flatten(0, -2).aminmax(dim=0) if self.architecture.named else rows.aminmax()
        self.low.copy_(extremes.min)
        self.high.copy_(extremes.max)

    def corrupt(self, rows: Tensor, generator: Generator) -> Damaged:
        options = self.options
        if self._own:
            return noise.by_user(rows, self._own, options.noise, generator)
        columns = self.columns if self.architecture.named else None
        return damaged(rows, options, self.low, self.high, generator, columns, len(self.first_of_columns))

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        return self.repair_loss(self.encoder, self.decoder, rows, generator)

    def repair_loss(
        self, encoder: nn.Module, decoder: nn.Module, rows: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        """reconstruction_loss of damaged rows, over the cells that are there, damaged and clean ones by their
        weights."""
        corrupted = self.corrupt(self.filled(rows), generator)
        decoded = decoder(encoder(self.seen(corrupted.rows, corrupted.where | rows.isnan())))
        options, weight = self.options, None
        if options.emphasised:
            weight = torch.where(corrupted.where, options.damaged_weight, options.clean_weight)
        if self.takes_missing:
            missing = rows.isnan()
            rows, weight = torch.where(missing, 0, rows), (~missing).float() * (1.0 if weight is None else weight)
        return self.reconstruction_loss(decoded, rows, weight)


def damaged(
    rows: Tensor,
    options: DenoisingOptions,
    low: Tensor,
    high: Tensor,
    generator: Generator,
    columns: Tensor | None = None,
    count: int = 0,
) -> Damaged:
    """rows: any shape [n, ...]; low, high: the pepper and the salt. columns, count: see noise.masking."""
    if options.noise == "gaussian":
        return noise.gaussian(rows, options.noise_level, generator)
    if options.noise == "salt_and_pepper":
        return noise.salt_and_pepper(rows, options.noise_level, low, high, generator)
    return noise.masking(rows, options.noise_level, generator, columns, count)
