"""Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks", figure 2B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.decomposition import PCA

from hourglass.contract.manifest import RECONSTRUCTION
from training.probe import Labelled
from training.reproduction import WHITE, Bench, Budget, Claim, Reproduction, at_most

_SOURCE = "caption of figure 2B, in a copy of the paper"
_MODEL = {
    "variant": "basic",
    "hidden": [1000, 500, 250],
    "hidden_activation": "selu",
    "embedding_dim": 30,
    "options": {"loss": "sigmoid_mse"},
    "batch_size": 256,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
}


class DeepAutoencoder(Reproduction):
    name: ClassVar[str] = "deep_autoencoder"
    title: ClassVar[str] = "Deep autoencoder 784-1000-500-250-30"
    paper: ClassVar[str] = "Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks"
    remarks: ClassVar[str] = (
        "Squared error is summed over the 784 pixels in [0, 1] and averaged over the test images. No pretraining by "
        "restricted Boltzmann machines: SELU units and Adam do without; sigmoid outputs, trained on the squared error"
        " that is reported, with weight decay: without it, half of the error on new images is overfitting. PCA is "
        "fitted on all 60,000."
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("test_sse_per_image", "test squared error", 3.00, _SOURCE, "B", at_most(3.00), at_most(2.5)),
        Claim("pca_30_test_sse_per_image", "PCA of 30 by the same code", 13.87, _SOURCE, "B", (13.86, 13.88)),
        Claim("train_sse_per_image", "training squared error"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {"model": {**_MODEL, "epochs": 100}},
        "gpu": {"model": {**_MODEL, "epochs": 1500}},
    }

    def run(self, bench: Bench) -> dict[str, float]:
        train, validation = bench.mnist.train, bench.mnist.validation
        trained = bench.fit("model", train.rows, validation.rows)
        test = bench.test_set()

        def error(images: Labelled) -> float:
            repeated = images.mapped(lambda rows: trained.served(rows)[RECONSTRUCTION]).rows
            return _sse_per_image(images.rows.numpy(), repeated.numpy())

        pca = PCA(30).fit(torch.cat([train.rows, validation.rows]).flatten(1).numpy())
        flat = test.rows.flatten(1).numpy()
        results = {
            "test_sse_per_image": error(test),
            "train_sse_per_image": error(Labelled(train.rows[:10_000], train.labels[:10_000])),
            "pca_30_test_sse_per_image": _sse_per_image(flat, pca.inverse_transform(pca.transform(flat))),
        }
        bench.publish(trained)
        return results


def _sse_per_image(images: np.ndarray, repeated: np.ndarray) -> float:
    difference = (images.astype(np.float64) - repeated) / WHITE
    return float(np.square(difference).sum() / len(images))
