"""The plain autoencoder: Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks"."""

from __future__ import annotations

from typing import ClassVar

from training.autoencoder import Autoencoder


class Basic(Autoencoder):
    """Learns to repeat its input through a bottleneck."""

    variant: ClassVar[str] = "basic"
    summary: ClassVar[str] = "repeats its input through a bottleneck: compression, embeddings, anomaly scores"
    objective: ClassVar[str] = "mean over rows of sum over features of (x - g(f(x)))^2"
