"""Makhzani & Frey 2013, "k-sparse autoencoders", table 1: a linear classifier on unsupervised features of MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from training.probe import Parts, linear_probe
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most
from training.scaling import Scaling
from training.variants.k_sparse import KSparse, largest

_SOURCE = "table 1, as quoted in a re-implementation"


class KSparseFeatures(Reproduction):
    name: ClassVar[str] = "k_sparse"
    title: ClassVar[str] = "k-sparse features, k = 25 of 1,000"
    paper: ClassVar[str] = "Makhzani & Frey 2013, k-Sparse Autoencoders"
    remarks: ClassVar[str] = (
        "Linear encoder, tied weights, the k largest units by value; a softmax layer on the frozen features. alpha, "
        "the factor by which more units are kept for the features than in training, is chosen on the validation "
        "images, as in the paper, and so is the classifier's weight decay."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("linear_error_percent", "test errors, %", 1.35, _SOURCE, "B", at_most(1.55), at_most(1.35)),
        Claim("validation_error_percent", "validation errors, %"),
        Claim("alpha", "alpha chosen"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "epochs": 40,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "k_start": 100,
            "alphas": [4, 5, 6, 8],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        recipe = dict(bench.recipe)
        alphas, k_start = recipe.pop("alphas"), recipe.pop("k_start")
        trained = bench.fit(
            "model",
            bench.mnist.train.rows,
            bench.mnist.validation.rows,
            variant="k_sparse",
            embedding_dim=1000,
            options={"k": 25, "k_start": k_start, "alpha": float(alphas[0])},
            **recipe,
        )
        bench.publish(trained)
        model, scaling = trained.served.autoencoder, trained.served.scaling
        assert isinstance(model, KSparse)
        parts = Parts(bench.mnist.train, bench.mnist.validation, bench.test_set())
        found = {}
        for alpha in alphas:
            features = parts.mapped(partial(_features, model, scaling, alpha * model.k))
            found[alpha] = linear_probe(features, bench.seed)
            bench.say(f"alpha {alpha}: {100 * found[alpha].validation:.2f} % of the validation images")
        alpha = min(found, key=lambda key: found[key].validation)
        return {
            "linear_error_percent": 100 * found[alpha].test,
            "validation_error_percent": 100 * found[alpha].validation,
            "alpha": alpha,
        }


def _features(model: KSparse, scaling: Scaling, units: int, rows: Tensor) -> Tensor:
    return largest(model.encoder(scaling(rows)), units)
