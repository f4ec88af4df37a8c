"""-log p(x) of a VAE by importance sampling: Burda et al. 2016, "Importance weighted autoencoders", section 3.

-log p(x) <= -log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x), z_k ~ q(z | x); the bound falls towards -log p(x) with K.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from training.variants.vae import Vae

_DECODED_ROWS = 1024  # of one pass, draws of some rows together: what stays in the caches


@torch.inference_mode()
def negative_log_likelihood(
    model: Vae, rows: Tensor, samples: int, generator: Generator, advance: Callable[[int], None] = lambda rows: None
) -> Tensor:
    """The bound with K = samples, in nats: float64 [n].

    rows: float32 [n, *row_shape] in scaled units; a Bernoulli likelihood means something for black and white rows only.
    generator: the processor's, wherever the model is. advance: called with the number of rows done at a time.
    """
    model.eval()
    rows = rows.to(next(model.parameters()).device)
    sums = torch.full((len(rows),), -math.inf, dtype=torch.float64, device=rows.device)
    draws = min(samples, _DECODED_ROWS)
    for part in torch.split(torch.arange(len(rows), device=rows.device), max(1, _DECODED_ROWS // draws)):
        done = 0
        while done < samples:
            count = min(draws, samples - done)
            weights = _log_weights(model, rows[part], count, generator).double()
            sums[part] = torch.logaddexp(sums[part], weights.logsumexp(dim=1))
            done += count
        advance(len(part))
    return math.log(samples) - sums.cpu()


def _log_weights(model: Vae, rows: Tensor, samples: int, generator: Generator) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) of draws from q: [n, samples]."""
    mean, log_variance = model.posterior(rows)
    noise = torch.randn(len(rows), samples, mean.shape[1], generator=generator).to(rows.device)
    embedding = mean.unsqueeze(1) + torch.exp(0.5 * log_variance).unsqueeze(1) * noise
    # Both densities lack the same factor (2 pi)^(-d / 2).
    prior = -0.5 * embedding.square().sum(dim=2)
    posterior = -0.5 * (noise.square().sum(dim=2) + log_variance.sum(dim=1, keepdim=True))
    decoded = model.decoder(embedding.flatten(0, 1))
    repeated = rows.repeat_interleave(samples, dim=0)
    nll = model.likelihood.negative_log_likelihood(decoded, repeated).flatten(1).sum(dim=1)
    return prior - posterior - nll.view(len(rows), samples)
