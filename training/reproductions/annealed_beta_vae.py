"""Burgess et al. 2018, "Understanding disentangling in beta-VAE": KL is held to the capacity C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from training.reproduction import Bench, Budget, Claim, Reproduction, at_most
from training.reproductions.beta_vae import drawn, elbo_parts

_SOURCE = "a public log of losses of this model on dSprites"
_MODEL = {
    "variant": "annealed_beta_vae",
    "hidden": [1200, 1200],
    "embedding_dim": 10,
    "options": {"likelihood": "bernoulli", "gamma": 1000.0, "capacity_to": 25.0},
    "batch_size": 64,
    "learning_rate": 5e-4,
}


class AnnealedCapacity(Reproduction):
    name: ClassVar[str] = "annealed_beta_vae"
    title: ClassVar[str] = "Annealed β-VAE, C = 25 nats"
    paper: ClassVar[str] = "Burgess et al. 2018, Understanding Disentangling in beta-VAE"
    remarks: ClassVar[str] = (
        "gamma 1,000; C rises from 0 to 25 nats over the first half of the steps, then stays; 10 dimensions, our own "
        "sprites. Fully connected in place of convolutions. KL and reconstruction are of 2,000 sprites that chose "
        "nothing. beta = 4 and the plain VAE, trained alike, are on this page under β-VAE."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("kl_deviation_percent", "deviation of KL from C, %", 0, _SOURCE, "D", at_most(3), at_most(3)),
        Claim("kl_nats", "KL, nats", 25.0, _SOURCE, "D"),
        Claim("reconstruction_nats", "-log p(x | z), nats", 34.2, _SOURCE, "D"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {"images": 20_000, "model": {**_MODEL, "epochs": 10}},
        "gpu": {"images": 200_000, "model": {**_MODEL, "epochs": 100}},
    }

    def run(self, bench: Bench) -> dict[str, float]:
        train, validation, test = drawn(bench)
        trained = bench.fit("model", train, validation)
        found = elbo_parts(bench, trained, test)
        bench.publish(trained)
        capacity = bench.recipe["model"]["options"]["capacity_to"]
        return {**found, "kl_deviation_percent": 100 * abs(found["kl_nats"] / capacity - 1)}
