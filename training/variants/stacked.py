"""The stacked denoising autoencoder: Vincent et al. 2010, "Stacked denoising autoencoders: learning useful
representations in a deep network with a local denoising criterion" (section 3.5); convolutions as in Masci et al. 2011.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from training import parallel
from training.autoencoder import Clock, Options, squared_error
from training.networks import Architecture, pairs
from training.variants.denoising import Denoising, DenoisingOptions, damaged


class StackedOptions(DenoisingOptions):
    pretraining: Annotated[
        float, Field(gt=0, lt=1, description="share of the epochs that pretrain, layer after layer")
    ] = 0.25


class Stacked(Denoising):
    """Each layer first learns alone to denoise what the layers below it make of clean rows; then all learn together.

    Pretraining is the first share of the epochs, equally long for each layer, so that it is shown, recorded,
    checkpointed and resumed as every epoch is. A layer and its mirror in the decoder are trained on
    h = f_l(..f_1(x)), damaged as the rows are; a corruption of the user's is for rows, and masking of a quarter is used
    above them. Adam and its learning rate run on through all phases.
    """

    variant: ClassVar[str] = "stacked"
    summary: ClassVar[str] = "a deep denoising autoencoder, pretrained layer by layer: robust embeddings from few rows"
    options_class: ClassVar[type[Options]] = StackedOptions

    options: StackedOptions

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture, options)
        assert isinstance(self.encoder, nn.Sequential)
        assert isinstance(self.decoder, nn.Sequential)
        self._pairs = pairs(self.encoder, self.decoder)

    @property
    def objective(self) -> str:
        layers = (
            f"first, for each of {len(self._pairs)} layers, sum of (h - g_l(f_l(h~)))^2 with h the layer's clean input"
        )
        return f"{super().objective}; {layers}"

    def trained_networks(self) -> list[nn.Module]:
        return [*super().trained_networks(), *(network for pair in self._pairs for network in pair)]

    def settled(self, clock: Clock) -> bool:
        return self.layer(clock) is None

    def layer(self, clock: Clock) -> int | None:
        """The one that is pretrained now, from 0; None when all learn together."""
        done = clock.progress / self.options.pretraining
        return int(done * len(self._pairs)) if done < 1 else None

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        layer = self.layer(clock)
        if layer is None:
            return super().loss(rows, clock, generator)
        encoder, decoder = self._pairs[layer]
        if layer == 0:
            parts = self.repair_loss(encoder, decoder, rows, generator)
            return {f"layer_1_{name}": value for name, value in parts.items()}
        with torch.no_grad():
            hidden = self.seen(self.filled(rows), rows.isnan())
            for below, _ in self._pairs[:layer]:
                hidden = below(hidden)
            low, high = parallel.extremes(hidden)
        noisy = damaged(hidden, self.options, low, high, generator).rows
        return {f"layer_{layer + 1}_sse_per_row": squared_error(decoder(encoder(noisy)), hidden)}
