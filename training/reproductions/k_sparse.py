"""Makhzani & Frey 2013, "k-sparse autoencoders", table 1: a linear classifier on unsupervised features of MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from training.export import Trained
from training.fit import build
from training.graphs import Served
from training.probe import Classifier
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
        Claim("weight_decay", "the classifier's weight decay chosen"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {
                "variant": "k_sparse",
                "embedding_dim": 1000,
                "options": {"k": 25, "k_start": 100},
                "epochs": 40,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
            },
            "alphas": [2, 3, 4, 5, 6, 8],
            "classifiers": [{"epochs": 30, "weight_decay": decay} for decay in (0.0, 0.1, 0.3, 1.0)],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        trained = bench.fit("model", bench.mnist.train.rows, bench.mnist.validation.rows)
        model, scaling = trained.served.autoencoder, trained.served.scaling
        assert isinstance(model, KSparse)
        found: dict[int, Classifier] = {}
        for alpha in bench.recipe["alphas"]:
            features = partial(_features, model, scaling, alpha * model.k)
            found[alpha] = bench.probe(features)
            bench.say(f"alpha {alpha}: {100 * found[alpha].validation:.2f} % of the validation images")
        alpha = min(found, key=lambda key: found[key].validation)
        features = partial(_features, model, scaling, alpha * model.k)
        results = {
            "linear_error_percent": 100 * found[alpha].error(bench.test_set().mapped(features)),
            "validation_error_percent": 100 * found[alpha].validation,
            "alpha": alpha,
            "weight_decay": found[alpha].settings.weight_decay,
        }
        bench.publish(_serving(trained, alpha))
        return results


def _features(model: KSparse, scaling: Scaling, units: int, rows: Tensor) -> Tensor:
    return largest(model.encoder(scaling(rows)), units)


def _serving(trained: Trained, alpha: int) -> Trained:
    """The same weights with alpha k active units, which only embeddings that are served have."""
    config = trained.config.model_copy(update={"options": {**trained.config.options, "alpha": float(alpha)}})
    model = build(config, trained.dataset.row_shape).eval()
    model.load_state_dict(trained.served.autoencoder.state_dict())
    return replace(trained, config=config, served=Served(trained.served.scaling, model, model.score()))
