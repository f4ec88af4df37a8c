"""Vincent et al. 2010, "Stacked denoising autoencoders", table 3: three layers, fine-tuned, on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from training.probe import Parts, Settings, fine_tune
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most

_SOURCE = "table 3, as read in two independent texts"


class StackedFineTuned(Reproduction):
    name: ClassVar[str] = "stacked"
    title: ClassVar[str] = "Stacked denoising autoencoder, three layers, fine-tuned"
    paper: ClassVar[str] = "Vincent et al. 2010, Stacked Denoising Autoencoders"
    remarks: ClassVar[str] = (
        "Three layers of 1,000 units, each pretrained to denoise what the layers below make of clean images, masking "
        "noise; then a softmax layer on top and all weights trained on the labels. Control: the same network without "
        "pretraining. The learning rate of fine-tuning and the epoch are chosen on the validation images, for both."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("error_percent", "test errors, %", 1.28, _SOURCE, "B", at_most(1.6), at_most(1.28)),
        Claim("random_error_percent", "without pretraining, %"),
        Claim("validation_error_percent", "validation errors, %"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "epochs": 30,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "activation": "relu",
            "noise_level": 0.25,
            "pretraining": 0.9,
            "fine_tuning_epochs": 20,
            "fine_tuning_learning_rates": [1e-3, 3e-4],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        recipe = dict(bench.recipe)
        epochs, rates = recipe.pop("fine_tuning_epochs"), recipe.pop("fine_tuning_learning_rates")
        activation = recipe.pop("activation")
        own = {"noise_level": recipe.pop("noise_level"), "pretraining": recipe.pop("pretraining")}
        network: dict[str, Any] = {
            "variant": "stacked",
            "hidden": (1000, 1000),
            "hidden_activation": activation,
            "embedding_dim": 1000,
            "options": {"noise": "masking", "loss": "cross_entropy", "activation": activation, **own},
        }
        train, validation = bench.mnist.train, bench.mnist.validation
        stacked = bench.fit("model", train.rows, validation.rows, **network, **recipe)
        bench.publish(stacked)
        random = bench.untrained(**network)
        scaling = stacked.served.scaling
        parts = Parts(train, validation, bench.test_set()).mapped(scaling)
        settings = [Settings(epochs, learning_rate=rate) for rate in rates]

        def errors(what: str, encoder: nn.Module) -> tuple[float, float]:
            found = fine_tune(encoder, parts, bench.seed, settings)
            bench.say(f"fine-tuned from {what}: {100 * found.validation:.2f} % of the validation images")
            return 100 * found.test, 100 * found.validation

        test, chosen_by = errors("the pretrained encoder", stacked.served.autoencoder.encoder)
        return {
            "error_percent": test,
            "random_error_percent": errors("random weights", random.encoder)[0],
            "validation_error_percent": chosen_by,
        }
