"""What a decoder's output says of a row: p(x | z), independent over features, in nats.

decoded: the decoder's output, float32 [n, *row_shape]; rows: the same shape, in scaled units. Kingma & Welling 2014,
appendix C.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

# exp(log_variance) is kept between these by `bounded`.
_LEARNED_VARIANCE = (-8.0, 8.0)  # of a feature in scaled units: no feature is known better than 1.8 % of its spread


class Likelihood(nn.Module, ABC):
    """`name` goes to the card; `terms` says what negative_log_likelihood gives for each feature."""

    name: str
    terms: str

    @abstractmethod
    def mean(self, decoded: Tensor) -> Tensor:
        """E[x | z], in scaled units."""

    @abstractmethod
    def negative_log_likelihood(self, decoded: Tensor, rows: Tensor) -> Tensor:
        """-log p(x_j | z) of each feature: [n, *row_shape]."""

    @abstractmethod
    def least(self) -> Tensor:
        """The least that negative_log_likelihood gives for a feature; broadcasts to a row."""

    @abstractmethod
    def precision(self) -> Tensor:
        """1 / standard deviation of a feature given z, at most; broadcasts to a row."""


class Bernoulli(Likelihood):
    """decoded: logits. A grey level in [0, 1] counts as the probability of white: the cross-entropy, not a density."""

    name = "Bernoulli"
    terms = "cross-entropy of the pixel clamped to [0, 1]"

    def mean(self, decoded: Tensor) -> Tensor:
        return decoded.sigmoid()

    def negative_log_likelihood(self, decoded: Tensor, rows: Tensor) -> Tensor:
        # Spelt out: torch exports binary_cross_entropy_with_logits as log(sigmoid), infinite from a logit of 17 on.
        return decoded.clamp(min=0) - decoded * rows.clamp(0, 1) + functional.softplus(-decoded.abs())

    def least(self) -> Tensor:
        return torch.zeros(())

    def precision(self) -> Tensor:
        return torch.ones(())


class Gaussian(Likelihood):
    """decoded: means. The variance is one number for all, or learned, one for each feature.

    A learned one makes each feature count by how well it can be known, as its maximum likelihood does in Rybkin et al.
    2021, "Simple and effective VAE training with calibrated decoders".
    """

    terms = "negative log density, which may be below 0"

    # Adam moves every parameter by about the learning rate a step: a variance must not be the last to arrive.
    _HASTE = 10.0

    def __init__(self, row_shape: tuple[int, ...], variance: float | None) -> None:
        super().__init__()
        self.fixed = variance
        self.name = f"Gaussian, {'variance learned per feature' if variance is None else f'variance {variance:g}'}"
        if variance is None:
            self.raw = nn.Parameter(torch.zeros(row_shape))

    @property
    def log_variance(self) -> Tensor:
        if self.fixed is not None:
            return torch.tensor(math.log(self.fixed))
        return bounded(self._HASTE * self.raw, *_LEARNED_VARIANCE)

    def mean(self, decoded: Tensor) -> Tensor:
        return decoded

    def negative_log_likelihood(self, decoded: Tensor, rows: Tensor) -> Tensor:
        return self.least() + 0.5 * (rows - decoded).square() * torch.exp(-self.log_variance)

    def least(self) -> Tensor:
        return 0.5 * (math.log(2 * math.pi) + self.log_variance)

    def precision(self) -> Tensor:
        return torch.exp(-0.5 * self.log_variance)


def standard_normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each dimension, in nats: the arguments' shape.

    Kingma & Welling 2014, appendix B: -1/2 (1 + log s^2 - m^2 - s^2).
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def bounded(values: Tensor, low: float, high: float) -> Tensor:
    """Softly between low and high: nearly the identity inside, and with a gradient that leads back outside."""
    below = high - functional.softplus(high - values)
    return low + functional.softplus(below - low)
