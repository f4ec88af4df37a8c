"""The variational autoencoder: Kingma & Welling 2014, "Auto-encoding variational Bayes"."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from hourglass.contract.manifest import EMBEDDING, EMBEDDING_STDDEV, RECONSTRUCTION
from training import chance, scoring
from training.autoencoder import Autoencoder, Clock, Options, unit_activity
from training.errors import ConfigError
from training.likelihoods import Bernoulli, Gaussian, Likelihood, bounded, standard_normal_kl
from training.networks import Architecture

_LOG_VARIANCE = (-20.0, 10.0)  # of q(z | x): standard deviations from 0.00005 to 148, in units of the prior's
# At first, q is narrower than the prior: a decoder that begins with pure noise learns to ignore it, and then nothing
# pulls the encoder away from N(0, I). On digits that plateau outlasts early stopping as soon as beta is 2.
_FIRST_LOG_VARIANCE = -2.0


class VaeOptions(Options):
    likelihood: Annotated[
        Literal["bernoulli", "gaussian"] | None,
        Field(description="p(x|z): bernoulli (images) or gaussian; not set: what suits the rows"),
    ] = None
    variance: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="gaussian: of every feature, in scaled units; not set: learned"),
    ] = None
    binarise: Annotated[
        bool,
        Field(description="bernoulli: draw each pixel black or white at each step, with its grey as the probability"),
    ] = False


class Vae(Autoencoder):
    """Encodes a row as a normal distribution; one draw from it is decoded in training, its mean when served."""

    variant: ClassVar[str] = "vae"
    summary: ClassVar[str] = "encodes a row as a distribution near N(0, I): new rows, smooth embeddings, ELBO scores"
    objective: ClassVar[str] = "mean over rows of -E_q[log p(x | z)] + KL(q(z | x) || N(0, I))"
    options_class: ClassVar[type[Options]] = VaeOptions
    prior: ClassVar[Literal["standard_normal"] | None] = "standard_normal"

    options: VaeOptions

    def __init__(self, architecture: Architecture, options: Options) -> None:
        super().__init__(architecture, options)
        self.likelihood = self._likelihood()

    def build(self) -> tuple[nn.Module, nn.Module]:
        dimensions = self.architecture.embedding_dim
        encoder = self.architecture.encoder(outputs=2 * dimensions)
        last = list(encoder.modules())[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias[dimensions:], _FIRST_LOG_VARIANCE)
        return encoder, self.architecture.decoder()

    def _likelihood(self) -> Likelihood:
        """Raises ConfigError."""
        options, row_shape = self.options, self.architecture.row_shape
        table = self.architecture.named
        if (options.likelihood or ("gaussian" if table else "bernoulli")) == "gaussian":
            if options.binarise:
                raise ConfigError("binarise makes rows of black and white, for likelihood=bernoulli (images only)")
            return Gaussian(row_shape, options.variance)
        if table:
            raise ConfigError(
                "likelihood=bernoulli needs rows in [0, 1], which images are: a table's columns are standardised, "
                "so take likelihood=gaussian"
            )
        if options.variance is not None:
            raise ConfigError("variance is one of the gaussian likelihood: add likelihood=gaussian")
        return Bernoulli()

    def posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x): [n, embedding_dim] each."""
        mean, log_variance = self.encoder(rows).chunk(2, dim=1)
        return mean, bounded(log_variance, *_LOG_VARIANCE)

    def encode(self, rows: Tensor) -> Tensor:
        return self.posterior(rows)[0]

    def decode(self, embedding: Tensor) -> Tensor:
        reconstruction: Tensor = self.likelihood.mean(self.decoder(embedding))
        return reconstruction

    def embed(self, rows: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.posterior(rows)
        return {EMBEDDING: mean, EMBEDDING_STDDEV: torch.exp(0.5 * log_variance)}

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        answers = self.embed(rows)
        decoded = self.decoder(answers[EMBEDDING])
        return {**answers, RECONSTRUCTION: self.likelihood.mean(decoded), scoring.DECODED: decoded}

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        if self.options.binarise:
            rows = (chance.uniform(rows.shape, generator) < rows.clamp(0, 1)).float()
        mean, log_variance = self.posterior(rows)
        noise = chance.normal(mean.shape, generator)
        decoded = self.decoder(mean + torch.exp(0.5 * log_variance) * noise)
        reconstruction = self.likelihood.negative_log_likelihood(decoded, rows).sum() / len(rows)
        kl = standard_normal_kl(mean, log_variance).sum() / len(rows)
        return {"reconstruction_nats_per_row": reconstruction, **self.penalty(kl, clock)}

    def penalty(self, kl: Tensor, clock: Clock) -> dict[str, Tensor]:
        """The named part of the loss that the batch's mean KL, a scalar in nats, becomes."""
        return {"kl_nats_per_row": kl}

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        mean, log_variance = self.posterior(rows)
        kl = standard_normal_kl(mean, log_variance).mean(dim=0)
        return {
            **unit_activity(mean),
            "kl_nats": kl.sum().item(),
            "kl_nats_per_dimension": kl.tolist(),
        }

    def facts(self) -> dict[str, str]:
        return {"likelihood": self.likelihood.name}

    def score(self) -> scoring.Score:
        return scoring.NegativeElbo(self.likelihood)
