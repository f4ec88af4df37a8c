"""A denoising autoencoder's features under the protocol of Makhzani & Frey 2013, table 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from training.probe import Parts, linear_probe
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most

_SOURCE = "table 1, from memory"


class DenoisingFeatures(Reproduction):
    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Denoising features, 1,000 hidden units"
    paper: ClassVar[str] = (
        "Vincent et al. 2008, Extracting and Composing Robust Features with Denoising Autoencoders, under the protocol "
        "of Makhzani & Frey 2013"
    )
    remarks: ClassVar[str] = (
        "One layer of units with tied weights, masking noise, cross-entropy; a softmax layer on the frozen features, "
        "its weight decay chosen on the validation images."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("linear_error_percent", "test errors, %", 1.95, _SOURCE, "C", at_most(2.3), at_most(1.95)),
        Claim("validation_error_percent", "validation errors, %"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {"epochs": 60, "batch_size": 128, "learning_rate": 1e-3, "activation": "sigmoid", "noise_level": 0.5},
    }

    def run(self, bench: Bench) -> dict[str, float]:
        recipe = dict(bench.recipe)
        own = {"activation": recipe.pop("activation"), "noise_level": recipe.pop("noise_level")}
        trained = bench.fit(
            "model",
            bench.mnist.train.rows,
            bench.mnist.validation.rows,
            variant="denoising",
            hidden=(),
            embedding_dim=1000,
            options={"noise": "masking", "loss": "cross_entropy", "tied": True, **own},
            **recipe,
        )
        bench.publish(trained)
        model, scaling = trained.served.autoencoder, trained.served.scaling
        parts = Parts(bench.mnist.train, bench.mnist.validation, bench.test_set())
        found = linear_probe(parts.mapped(lambda rows: model.encode(scaling(rows))), bench.seed)
        return {
            "linear_error_percent": 100 * found.test,
            "validation_error_percent": 100 * found.validation,
        }
