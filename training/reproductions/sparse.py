"""Ng 2011, "Sparse autoencoder": units held to a mean activation rho by a KL penalty."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import nn
from torch.nn import functional

from training.export import Trained
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most, embed


class SparseActivations(Reproduction):
    name: ClassVar[str] = "sparse"
    title: ClassVar[str] = "Sparse autoencoder, KL penalty"
    paper: ClassVar[str] = "Ng 2011, Sparse Autoencoder (CS294A lecture notes)"
    remarks: ClassVar[str] = (
        "200 sigmoid units on MNIST, rho 0.05. The notes have no headline number: what is claimed is that units' "
        "mean activations over the data arrive at rho. Measured on the test images: the deviation of a unit's mean "
        "activation from rho, as a share of rho, averaged over units. The filters are pen strokes:\n\n"
        "![the filters of 100 units](reproductions/sparse/filters.png)"
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("deviation_percent", "mean deviation of a unit from rho, %", expected=at_most(20)),
        Claim("worst_deviation_percent", "the worst unit's, %"),
        Claim("rhohat_mean", "mean activation over units and images", 0.05, "the notes' example", "C"),
        Claim("linear_error_percent", "linear classifier on the activations, test errors, %"),
    )
    recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "cpu": {
            "model": {
                "variant": "sparse",
                "embedding_dim": 200,
                "options": {"rho": 0.05, "beta": 3.0},
                "epochs": 60,
                "batch_size": 256,
                "learning_rate": 1e-3,
            },
            "classifiers": [{"epochs": 30, "weight_decay": decay} for decay in (0.0, 0.03, 0.3, 1.0)],
        },
    }

    def run(self, bench: Bench) -> dict[str, float]:
        trained = bench.fit("model", bench.mnist.train.rows, bench.mnist.validation.rows)
        activations = partial(embed, trained)
        found = bench.probe(activations)
        test = bench.test_set().mapped(activations)
        rhohat = test.rows.double().mean(dim=0)
        deviation = 100 * (rhohat / bench.recipe["model"]["options"]["rho"] - 1).abs()
        results = {
            "deviation_percent": deviation.mean().item(),
            "worst_deviation_percent": deviation.max().item(),
            "rhohat_mean": rhohat.mean().item(),
            "linear_error_percent": 100 * found.error(test),
        }
        self._draw(trained, bench.pictures / "filters.png")
        bench.publish(trained)
        return results

    @staticmethod
    def _draw(trained: Trained, path: Path) -> None:
        """The first 100 units' weights, each scaled to its own largest: grey is 0."""
        layer = trained.served.autoencoder.encoder.get_submodule("1")
        assert isinstance(layer, nn.Linear)
        weights = layer.weight.detach()[:100].view(10, 10, 28, 28)
        shades = 0.5 + 0.5 * weights / weights.abs().amax(dim=(2, 3), keepdim=True)
        sheet = functional.pad(shades, (1, 1, 1, 1), value=1.0).permute(0, 2, 1, 3).reshape(300, 300)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * sheet).round().byte().numpy()).resize((600, 600), Image.Resampling.NEAREST).save(path)
