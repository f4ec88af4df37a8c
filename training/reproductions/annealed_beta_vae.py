"""Burgess et al. 2018, "Understanding disentangling in beta-VAE": KL is held to the capacity C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from training.reproduction import Bench, Budget, Claim, Reproduction, at_most
from training.reproductions.beta_vae import drawn, elbo_parts, fitted

_SOURCE = "a public log of losses of this model"


class AnnealedCapacity(Reproduction):
    name: ClassVar[str] = "annealed_beta_vae"
    title: ClassVar[str] = "Annealed β-VAE, C = 25 nats"
    paper: ClassVar[str] = "Burgess et al. 2018, Understanding Disentangling in beta-VAE"
    remarks: ClassVar[str] = (
        "gamma 1,000; C rises from 0 to 25 nats over the first half of the steps, then stays; 10 dimensions, our own "
        "sprites. KL and reconstruction are of 2,000 held-out sprites. beta = 4 and the plain VAE, trained alike, are "
        "on this page under β-VAE."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("kl_deviation_percent", "deviation of KL from C, %", 0, _SOURCE, "A", at_most(3), at_most(3)),
        Claim("kl_nats", "KL, nats", 25.0, _SOURCE, "A"),
        Claim("reconstruction_nats", "-log p(x | z), nats", 34.2, _SOURCE, "A"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "images": 20_000,
            "network": "mlp",
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 5e-4,
            "gamma": 1000.0,
            "capacity": 25.0,
        },
        "gpu": {
            "images": 700_000,
            "network": "conv",
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 5e-4,
            "gamma": 1000.0,
            "capacity": 25.0,
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        capacity = bench.recipe["capacity"]
        train, held_out = drawn(bench)
        options = {"gamma": bench.recipe["gamma"], "capacity_to": capacity}
        trained = fitted(bench, "model", train, held_out, variant="annealed_beta_vae", options=options)
        bench.publish(trained)
        kl, reconstruction = elbo_parts(bench, trained, held_out)
        return {
            "kl_deviation_percent": 100 * abs(kl / capacity - 1),
            "kl_nats": kl,
            "reconstruction_nats": reconstruction,
        }
