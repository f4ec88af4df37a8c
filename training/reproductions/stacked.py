"""Vincent et al. 2010, "Stacked denoising autoencoders", table 3: three layers, fine-tuned, on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from training.reproduction import Bench, Budget, Claim, Reproduction, at_most
from training.reproductions.contractive import fine_tuned

_SOURCE = "table 3, as read in two independent texts"


class StackedFineTuned(Reproduction):
    name: ClassVar[str] = "stacked"
    title: ClassVar[str] = "Stacked denoising autoencoder, three layers, fine-tuned"
    paper: ClassVar[str] = "Vincent et al. 2010, Stacked Denoising Autoencoders"
    remarks: ClassVar[str] = (
        "Three layers of 1,000 ReLU units, each pretrained to denoise what the layers below make of clean images, "
        "masking noise; then a softmax layer on top and all weights trained on the labels. Control: the same network "
        "without pretraining. The learning rate of fine-tuning and the epoch are chosen on the validation images, for"
        " both."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("error_percent", "test errors, %", 1.28, _SOURCE, "B", at_most(1.6), at_most(1.28)),
        Claim("random_error_percent", "without pretraining, %"),
        Claim("gain_over_random", "fewer errors than without pretraining, points", gain=True),
        Claim("validation_error_percent", "validation errors, %"),
        Claim("learning_rate", "learning rate of fine-tuning chosen"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {
                "variant": "stacked",
                "hidden": [1000, 1000],
                "hidden_activation": "relu",
                "embedding_dim": 1000,
                "options": {
                    "noise": "masking",
                    "noise_level": 0.25,
                    "pretraining": 0.9,
                    "loss": "cross_entropy",
                    "activation": "relu",
                },
                "epochs": 30,
                "batch_size": 128,
                "learning_rate": 1e-3,
            },
            "classifiers": [{"epochs": 20, "learning_rate": rate} for rate in (1e-3, 3e-4)],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        stacked = bench.fit("model", bench.mnist.train.rows, bench.mnist.validation.rows)
        encoders = {
            "the pretrained encoder": stacked.served.autoencoder.encoder,
            "random weights": bench.untrained("model", (28, 28)).encoder,
        }
        (error, chosen), (random, _) = fine_tuned(bench, encoders, stacked.served.scaling)
        bench.publish(stacked)
        return {
            "error_percent": error,
            "random_error_percent": random,
            "gain_over_random": random - error,
            "validation_error_percent": 100 * chosen.validation,
            "learning_rate": chosen.settings.learning_rate,
        }
