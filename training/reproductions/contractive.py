"""Rifai et al. 2011, "Contractive auto-encoders", table 1: an encoder of MNIST, fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from training.probe import Classifier, fine_tune
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most
from training.scaling import Scaling

_SOURCE = "table 1, as quoted in an independent text"
_MODEL = {"embedding_dim": 1000, "epochs": 30, "batch_size": 128, "learning_rate": 1e-3}
_SIGMOID = {"loss": "cross_entropy", "activation": "sigmoid"}


class ContractiveFineTuned(Reproduction):
    name: ClassVar[str] = "contractive"
    title: ClassVar[str] = "Contractive encoder, fine-tuned"
    paper: ClassVar[str] = "Rifai et al. 2011, Contractive Auto-Encoders: Explicit Invariance During Feature Extraction"
    remarks: ClassVar[str] = (
        "One layer of 1,000 sigmoid units, tied weights, cross-entropy; then a softmax layer on top and all weights "
        "trained on the labels. Controls: the same from a plain autoencoder of the same network and from random "
        "weights. The learning rate of fine-tuning and the epoch are chosen on the validation images, for each of the"
        " three."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("error_percent", "test errors, %", 1.14, _SOURCE, "B", at_most(1.5), at_most(1.14)),
        Claim("plain_error_percent", "from a plain autoencoder, %", 1.78, _SOURCE, "B"),
        Claim("random_error_percent", "from random weights, %"),
        Claim("gain_over_plain", "fewer errors than from a plain autoencoder, points", 0.64, _SOURCE, "B", gain=True),
        Claim("gain_over_random", "fewer errors than from random weights, points", gain=True),
        Claim("validation_error_percent", "validation errors, %"),
        Claim("learning_rate", "learning rate of fine-tuning chosen"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {
                **_MODEL,
                "variant": "contractive",
                "options": {**_SIGMOID, "contraction": 1.0},
            },
            "plain": {**_MODEL, "variant": "basic", "hidden": [], "options": {**_SIGMOID, "tied": True}},
            "classifiers": [{"epochs": 30, "learning_rate": rate} for rate in (3e-3, 1e-3)],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        train, validation = bench.mnist.train, bench.mnist.validation
        contractive = bench.fit("model", train.rows, validation.rows)
        encoders = {
            "the contractive encoder": contractive.served.autoencoder.encoder,
            "a plain encoder": bench.fit("plain", train.rows, validation.rows).served.autoencoder.encoder,
            "random weights": bench.untrained("plain", (28, 28)).encoder,
        }
        (error, chosen), (plain, _), (random, _) = fine_tuned(bench, encoders, contractive.served.scaling)
        bench.publish(contractive)
        return {
            "error_percent": error,
            "plain_error_percent": plain,
            "random_error_percent": random,
            "gain_over_plain": plain - error,
            "gain_over_random": random - error,
            "validation_error_percent": 100 * chosen.validation,
            "learning_rate": chosen.settings.learning_rate,
        }


def fine_tuned(bench: Bench, encoders: Mapping[str, nn.Module], scaling: Scaling) -> list[tuple[float, Classifier]]:
    """Of each encoder, with a softmax layer on top: the test images it gets wrong, in %, and the classifier."""
    train, validation = bench.mnist.train.mapped(scaling), bench.mnist.validation.mapped(scaling)
    chosen = []
    for name, encoder in encoders.items():
        chosen.append(fine_tune(encoder, train, validation, bench.seed, bench.classifiers()))
        bench.say(f"fine-tuned from {name}: {100 * chosen[-1].validation:.2f} % of the validation images")
    test = bench.test_set().mapped(scaling)
    return [(100 * classifier.error(test), classifier) for classifier in chosen]
