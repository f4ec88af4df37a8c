"""A VAE of one stochastic layer as in Burda et al. 2016, "Importance weighted autoencoders", table 1, k = 1."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from training.export import Trained
from training.importance import negative_log_likelihood
from training.reproduction import WHITE, Bench, Budget, Claim, Reproduction, at_most
from training.scoring import active_units
from training.variants.vae import Vae

_SOURCE = "table 1, quoted in the comments of two implementations"
_MODEL = {
    "variant": "vae",
    "hidden": [200, 200],
    "hidden_activation": "tanh",
    "embedding_dim": 50,
    "options": {"likelihood": "bernoulli", "binarise": True},
    "learning_rate": 1e-3,
}


class VaeDynamic(Reproduction):
    name: ClassVar[str] = "vae"
    title: ClassVar[str] = "VAE 200-200-50, dynamic binarisation"
    paper: ClassVar[str] = "Burda et al. 2016, Importance Weighted Autoencoders (the VAE, k = 1)"
    remarks: ClassVar[str] = (
        "Two layers of 200 tanh units each way, 50 dimensions, pixels drawn anew at every step with their grey level "
        "as probability. -log p(x) in nats by importance sampling, 5,000 draws for each of the 10,000 test "
        "images, binarised once by the seed."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("test_nll", "-log p(x), test", 86.76, _SOURCE, "B", at_most(89.5), at_most(86.76)),
        Claim("test_negative_elbo", "negative ELBO, test"),
        Claim("active_units", "active units of 50"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {"model": {**_MODEL, "epochs": 240, "batch_size": 64}, "samples": 5000},
        "gpu": {"model": {**_MODEL, "epochs": 3280, "batch_size": 100}, "samples": 5000},
    }

    def run(self, bench: Bench) -> dict[str, float]:
        trained = bench.fit("model", bench.mnist.train.rows, bench.mnist.validation.rows)
        chance = bench.generator()
        results = measured(bench, trained, torch.bernoulli(bench.test_set().rows / WHITE, generator=chance), chance)
        bench.publish(trained)
        return results


def measured(bench: Bench, trained: Trained, images: Tensor, chance: Generator) -> dict[str, float]:
    """images: black and white, float32 [n, 28, 28]."""
    model = copy.deepcopy(trained.served.autoencoder).to(bench.device)
    assert isinstance(model, Vae)
    with bench.bar("-log p(x)", len(images)) as advance:
        nll = negative_log_likelihood(model, images, bench.recipe["samples"], chance, advance)
    elbo = negative_log_likelihood(model, images, 1, chance)
    with torch.no_grad():
        embedding = model.encode(images.to(bench.device))
    return {
        "test_nll": nll.mean().item(),
        "test_negative_elbo": elbo.mean().item(),
        "active_units": active_units(embedding),
    }
