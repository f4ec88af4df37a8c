"""Rifai et al. 2011, "Contractive auto-encoders", table 1: an encoder of MNIST, fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from training.probe import Parts, Settings, fine_tune
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most

_SOURCE = "table 1, as quoted in an independent text"


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
        Claim("validation_error_percent", "validation errors, %"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "epochs": 30,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "contraction": 1.0,
            "fine_tuning_epochs": 30,
            "fine_tuning_learning_rates": [3e-3, 1e-3],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        recipe = dict(bench.recipe)
        contraction = recipe.pop("contraction")
        epochs, rates = recipe.pop("fine_tuning_epochs"), recipe.pop("fine_tuning_learning_rates")
        network: dict[str, Any] = {"hidden": (), "embedding_dim": 1000}
        sigmoid = {"loss": "cross_entropy", "activation": "sigmoid"}
        train, validation = bench.mnist.train, bench.mnist.validation
        contractive = bench.fit(
            "model",
            train.rows,
            validation.rows,
            variant="contractive",
            options={**sigmoid, "contraction": contraction},
            **network,
            **recipe,
        )
        bench.publish(contractive)
        tied = {**sigmoid, "tied": True}
        plain = bench.fit("plain", train.rows, validation.rows, variant="basic", options=tied, **network, **recipe)
        random = bench.untrained(variant="basic", options=tied, **network)
        scaling = contractive.served.scaling
        parts = Parts(train, validation, bench.test_set()).mapped(scaling)
        settings = [Settings(epochs, learning_rate=rate) for rate in rates]

        def errors(what: str, encoder: nn.Module) -> tuple[float, float]:
            found = fine_tune(encoder, parts, bench.seed, settings)
            bench.say(f"fine-tuned from {what}: {100 * found.validation:.2f} % of the validation images")
            return 100 * found.test, 100 * found.validation

        test, chosen_by = errors("the contractive encoder", contractive.served.autoencoder.encoder)
        return {
            "error_percent": test,
            "plain_error_percent": errors("the plain encoder", plain.served.autoencoder.encoder)[0],
            "random_error_percent": errors("random weights", random.encoder)[0],
            "validation_error_percent": chosen_by,
        }
