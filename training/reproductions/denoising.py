"""A denoising autoencoder's features under the protocol of Makhzani & Frey 2013, table 1."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from training.reproduction import Bench, Budget, Claim, Reproduction, at_most, embed

_SOURCE = "table 1, from memory"


class DenoisingFeatures(Reproduction):
    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Denoising features, 1,000 hidden units"
    paper: ClassVar[str] = (
        "Vincent et al. 2008, Extracting and Composing Robust Features with Denoising Autoencoders, under the protocol "
        "of Makhzani & Frey 2013"
    )
    remarks: ClassVar[str] = (
        "One layer of ReLU units with tied weights, half of the pixels masked, squared error; a softmax layer on the "
        "frozen features, its weight decay chosen on the validation images."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("linear_error_percent", "test errors, %", 1.95, _SOURCE, "C", at_most(2.3), at_most(1.95)),
        Claim("validation_error_percent", "validation errors, %"),
        Claim("weight_decay", "the classifier's weight decay chosen"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {
                "variant": "denoising",
                "hidden": [],
                "embedding_dim": 1000,
                "options": {
                    "noise": "masking",
                    "noise_level": 0.5,
                    "loss": "mse",
                    "tied": True,
                    "activation": "relu",
                },
                "epochs": 40,
                "batch_size": 128,
                "learning_rate": 1e-3,
            },
            "classifiers": [{"epochs": 30, "weight_decay": decay} for decay in (0.0, 0.03, 0.3, 1.0)],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        trained = bench.fit("model", bench.mnist.train.rows, bench.mnist.validation.rows)
        features = partial(embed, trained)
        found = bench.probe(features)
        results = {
            "linear_error_percent": 100 * found.error(bench.test_set().mapped(features)),
            "validation_error_percent": 100 * found.validation,
            "weight_decay": found.settings.weight_decay,
        }
        bench.publish(trained)
        return results
