"""A VAE on statically binarised MNIST, as in pythae's table of reproductions (Chadebec et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from training.reproduction import WHITE, Bench, Budget, Claim, Reproduction, at_most
from training.reproductions.vae import measured

_SOURCE = "pythae's reproducibility table: 89.78 ± 0.01"
_MODEL = {"variant": "vae", "hidden": [400], "embedding_dim": 40, "options": {"likelihood": "bernoulli"}}


class VaeStatic(Reproduction):
    name: ClassVar[str] = "vae_static"
    title: ClassVar[str] = "VAE 400-40, static binarisation"
    paper: ClassVar[str] = "Kingma & Welling 2014, Auto-Encoding Variational Bayes, as reproduced in pythae"
    remarks: ClassVar[str] = (
        "One layer of 400 ReLU units each way, 40 dimensions. All images are binarised once, by ourselves with a fixed "
        "seed, not by the files of Larochelle that the source used; dynamic and static binarisation differ by about 2 "
        "nats and must not be compared. -log p(x) in nats by importance sampling, 200 draws for each of the "
        "10,000 test images."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("test_nll", "-log p(x), test", 89.78, _SOURCE, "A", at_most(92), at_most(89.78)),
        Claim("test_negative_elbo", "negative ELBO, test"),
        Claim("active_units", "active units of 40"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {**_MODEL, "epochs": 200, "batch_size": 64, "learning_rate": 1e-3},
            "samples": 200,
            "binarised_by": 20161,
        },
        "gpu": {
            "model": {**_MODEL, "epochs": 500, "batch_size": 100, "learning_rate": 5e-4},
            "samples": 200,
            "binarised_by": 20161,
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        coins = torch.Generator().manual_seed(bench.recipe["binarised_by"])  # the same data set for every seed
        train, validation = (
            torch.bernoulli(part.rows / WHITE, generator=coins) for part in (bench.mnist.train, bench.mnist.validation)
        )
        trained = bench.fit("model", train, validation)
        test = torch.bernoulli(bench.test_set().rows / WHITE, generator=coins)
        results = measured(bench, trained, test, bench.generator())
        bench.publish(trained)
        return results
