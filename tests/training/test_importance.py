"""Importance-sampled -log p(x), against linear-Gaussian models whose p(x) is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from training.importance import negative_log_likelihood
from training.networks import Architecture
from training.variants.vae import Vae, VaeOptions

VARIANCE = 0.3


def linear_vae(posterior_scale: float = 1.0) -> tuple[Vae, Tensor]:
    """x = W z + b + noise with orthogonal columns in W, and the exact posterior, its spread times `posterior_scale`.

    Also the covariance of x.
    """
    vae = Vae(Architecture((4,), 2, hidden=()), VaeOptions(likelihood="gaussian", variance=VARIANCE))
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, -1.0]])
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0])
    precision = 1 + weight.square().sum(dim=0) / VARIANCE
    encode, decode = vae.encoder[1], vae.decoder[0]  # type: ignore[index]
    assert isinstance(encode, nn.Linear)
    assert isinstance(decode, nn.Linear)
    with torch.no_grad():
        decode.weight.copy_(weight)
        decode.bias.copy_(shift)
        to_mean = weight.T / VARIANCE / precision[:, None]
        encode.weight.copy_(torch.cat([to_mean, torch.zeros(2, 4)]))
        log_variance = -precision.log() + 2 * math.log(posterior_scale)
        encode.bias.copy_(torch.cat([-to_mean @ shift, log_variance]))
    return vae, weight @ weight.T + VARIANCE * torch.eye(4)


def exact(vae: Vae, covariance: Tensor, rows: Tensor) -> Tensor:
    distribution = torch.distributions.MultivariateNormal(vae.decoder[0].bias.detach(), covariance)  # type: ignore[index, union-attr, arg-type]
    return -distribution.log_prob(rows)


@pytest.mark.parametrize("samples", [1, 7, 3000])
def test_with_the_exact_posterior_any_number_of_draws_is_exact(samples: int):
    vae, covariance = linear_vae()
    rows = torch.randn(5, 4, generator=Generator().manual_seed(1))
    found = negative_log_likelihood(vae, rows, samples, Generator().manual_seed(0))
    torch.testing.assert_close(found.float(), exact(vae, covariance, rows), atol=2e-3, rtol=0)


def test_with_another_posterior_the_bound_falls_to_the_likelihood():
    vae, covariance = linear_vae(posterior_scale=2.0)
    rows = torch.randn(200, 4, generator=Generator().manual_seed(1))
    wanted = exact(vae, covariance, rows).mean().item()
    few, many, most = (
        negative_log_likelihood(vae, rows, samples, Generator().manual_seed(0)).mean().item()
        for samples in (1, 10, 5000)
    )
    assert few > many + 0.1 > wanted + 0.1
    assert most == pytest.approx(wanted, abs=0.01)


def test_one_draw_is_the_negative_elbo():
    vae, _ = linear_vae(posterior_scale=2.0)
    rows = torch.randn(1, 4, generator=Generator().manual_seed(1)).expand(4000, 4)
    bound = negative_log_likelihood(vae, rows, 1, Generator().manual_seed(0)).mean().item()
    mean, log_variance = vae.posterior(rows[:1])
    draws = mean + torch.exp(0.5 * log_variance) * torch.randn(4000, 2, generator=Generator().manual_seed(2))
    reconstruction = vae.likelihood.negative_log_likelihood(vae.decoder(draws), rows).sum(dim=1).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    assert bound == pytest.approx((reconstruction + kl).item(), abs=0.2)


def test_progress_tells_every_row():
    done: list[int] = []
    negative_log_likelihood(linear_vae()[0], torch.zeros(11, 4), 300, Generator(), done.append)
    assert sum(done) == 11
    assert len(done) > 1
