"""How far a reconstruction is from its row: squared error, or cross-entropy on sigmoid outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from training.autoencoder import Autoencoder, Options
from training.errors import ConfigError
from training.networks import Architecture


class ReconstructionOptions(Options):
    loss: Annotated[
        Literal["mse", "sigmoid_mse", "cross_entropy"],
        Field(description="squared error, that of sigmoid outputs, or their cross-entropy (the last two: images only)"),
    ] = "mse"
    activation: Annotated[Literal["linear", "relu", "tanh", "sigmoid"], Field(description="of the embedding")] = (
        "linear"
    )


class Reconstructing(Autoencoder):
    """An autoencoder whose user chooses the reconstruction loss (Vincent et al. 2010, section 2.2)."""

    options: ReconstructionOptions

    def __init__(self, architecture: Architecture, options: Options) -> None:
        assert isinstance(options, ReconstructionOptions)
        activation = None if options.activation == "linear" else options.activation
        super().__init__(replace(architecture, embedding_activation=activation), options)
        if self.options.loss != "mse" and architecture.named:
            raise ConfigError(
                f"loss={self.options.loss} needs rows in [0, 1], which images are: a table's columns are standardised, "
                "so take loss=mse"
            )

    def decode(self, embedding: Tensor) -> Tensor:
        return self._output(self.decoder(embedding))

    def _output(self, decoded: Tensor) -> Tensor:
        return decoded if self.options.loss == "mse" else decoded.sigmoid()

    def reconstruction_loss(self, decoded: Tensor, rows: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The named loss of the decoder's raw output: summed over features, averaged over rows.

        decoded, rows: [n, *row_shape]; weight: of each feature's term, broadcasts to rows.
        """
        if self.options.loss == "cross_entropy":
            # Rows that training did not see may lie a little outside [0, 1], where cross-entropy has no minimum.
            terms = functional.binary_cross_entropy_with_logits(decoded, rows.clamp(0, 1), reduction="none")
            name = "reconstruction_cross_entropy_per_row"
        else:
            terms = (self._output(decoded) - rows).square()
            name = "reconstruction_sse_per_row"
        if weight is not None:
            terms = weight * terms
        return {name: terms.sum() / len(rows)}

    def error(self, weight: str = "") -> str:
        """The formula of that loss, y being the reconstruction and `weight` a factor such as 'w '."""
        cross_entropy = "-(x log y + (1 - x) log(1 - y))"
        term = cross_entropy if self.options.loss == "cross_entropy" else "(x - y)^2"
        return f"mean over rows of sum over features of {weight}{term}"
