"""The beta-VAE: Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained variational
framework"."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from training.autoencoder import Clock, Options
from training.variants.vae import Vae, VaeOptions


class BetaVaeOptions(VaeOptions):
    # The paper's 4 is for images of 64 x 64: small rows have less to tell, and an embedding soon costs more than that.
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False, description="weight of the KL; 1 is the plain VAE")] = 2.0


class BetaVae(Vae):
    """A VAE that pays beta times for what an embedding says of its row, which sets independent factors apart."""

    variant: ClassVar[str] = "beta_vae"
    summary: ClassVar[str] = "a VAE held closer to N(0, I): embeddings whose dimensions mean different things"
    objective: ClassVar[str] = "mean over rows of -E_q[log p(x | z)] + beta KL(q(z | x) || N(0, I))"
    options_class: ClassVar[type[Options]] = BetaVaeOptions

    options: BetaVaeOptions

    @property
    def normalised_beta(self) -> float:
        """beta M / N, M the size of an embedding and N that of a row: what the paper compares models by."""
        return self.options.beta * self.architecture.embedding_dim / math.prod(self.architecture.row_shape)

    def penalty(self, kl: Tensor, clock: Clock) -> dict[str, Tensor]:
        return {"beta_kl_nats_per_row": self.options.beta * kl}

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        return {**super().monitor(rows, clock), "beta": self.options.beta, "normalised_beta": self.normalised_beta}

    def facts(self) -> dict[str, str]:
        return {**super().facts(), "normalised beta (beta M / N)": f"{self.normalised_beta:.4g}"}
