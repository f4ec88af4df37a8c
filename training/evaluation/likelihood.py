"""-log p(x) of a VAE, by importance sampling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from training.evaluation.section import Section, shown, table
from training.evaluation.subject import SEED, Subject
from training.importance import negative_log_likelihood
from training.likelihoods import Bernoulli
from training.variants.vae import Vae

MOST_ROWS = 500
_ELBO_DRAWS = 16


def measure(subject: Subject, vae: Vae, samples: int) -> Section:
    """On at most 500 rows of the sample."""
    rows = torch.from_numpy(subject.sample.scaled)
    rows = rows[torch.from_numpy(np.random.default_rng(SEED).permutation(len(rows))[:MOST_ROWS])]
    generator = Generator().manual_seed(SEED)
    rows, meaning = _as_trained(vae, rows, generator)
    # One draw gives the bound that training has: Burda et al. 2016, section 3, k = 1.
    draws = [negative_log_likelihood(vae, rows, 1, generator) for _ in range(_ELBO_DRAWS)]
    bounds = {
        "negative_elbo": torch.stack(draws).mean(dim=0),
        "negative_log_likelihood": negative_log_likelihood(vae, rows, samples, generator),
    }
    called = {"negative_elbo": "-ELBO", "negative_log_likelihood": f"-log p(x), {samples:,} samples"}
    numbers: dict[str, float] = {"rows": len(rows), "samples": samples}
    nats = table("nats per row", "mean", "standard error")
    for name, bound in bounds.items():
        mean, deviation = bound.mean().item(), (bound.std() / len(rows) ** 0.5).item()
        numbers |= {f"{name}_nats_per_row": mean, f"{name}_standard_error": deviation}
        nats.add_row(called[name], shown(mean), shown(deviation))
    sentences = (
        f"On {len(rows):,} rows; both are upper bounds of -log p(x), the second falls towards it as samples grow.",
        meaning,
    )
    return Section("likelihood", numbers, (nats,), sentences)


def _as_trained(vae: Vae, rows: Tensor, generator: Generator) -> tuple[Tensor, str]:
    """The rows as the model saw them, and what that means for people."""
    if not isinstance(vae.likelihood, Bernoulli):
        return rows, "A density in scaled units: it may be below 0, and compares models of the same scaling only."
    if ((rows == 0) | (rows == 1)).all():
        return rows, "The rows are black and white as they are."
    if vae.options.binarise:
        drawn = torch.bernoulli(rows.clamp(0, 1), generator=generator)
        return drawn, "Each pixel was drawn black or white once, with its grey as the probability, as in training."
    return rows, (
        "Greys count as shares of white, as in training: no probability of an image. Papers' numbers are for black and "
        "white pixels (option binarise=true)."
    )
