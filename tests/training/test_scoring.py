"""Likelihoods, divergences and scores against torch.distributions and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal, kl_divergence

from training.likelihoods import Bernoulli, Gaussian, Likelihood, bounded, standard_normal_kl
from training.scoring import DECODED, MeanSquaredError, NegativeElbo, active_units

means = st.floats(-50, 50)
log_variances = st.floats(-19, 9)


@settings(deadline=None)
@given(means, log_variances)
def test_the_kl_is_that_of_torch_distributions(mean: float, log_variance: float):
    m, v = torch.tensor([[mean]]).double(), torch.tensor([[log_variance]]).double()
    expected = kl_divergence(Normal(m, torch.exp(v / 2)), Normal(torch.zeros(()).double(), 1.0))
    torch.testing.assert_close(standard_normal_kl(m, v), expected, rtol=1e-9, atol=1e-9)


def test_the_kl_is_its_own_monte_carlo_estimate():
    generator = Generator().manual_seed(0)
    mean, log_variance = torch.tensor([0.7, -1.5, 0.0]), torch.tensor([0.4, -2.0, 0.0])
    posterior = Normal(mean, torch.exp(log_variance / 2))
    drawn = mean + torch.exp(log_variance / 2) * torch.randn(200_000, 3, generator=generator)
    samples = posterior.log_prob(drawn) - Normal(0.0, 1.0).log_prob(drawn)
    error = 4 * samples.std(dim=0) / math.sqrt(len(samples)) + 1e-6
    assert ((samples.mean(dim=0) - standard_normal_kl(mean, log_variance)).abs() < error).all()


@settings(deadline=None)
@given(st.floats(-100, 100), st.sampled_from([0.0, 1.0]))
def test_bernoulli_is_that_of_torch_distributions(logit: float, pixel: float):
    logits, rows = torch.full((1, 2, 2), logit), torch.full((1, 2, 2), pixel)
    expected = -TorchBernoulli(logits=logits).log_prob(rows)
    torch.testing.assert_close(Bernoulli().negative_log_likelihood(logits, rows), expected)
    torch.testing.assert_close(Bernoulli().mean(logits), TorchBernoulli(logits=logits).mean)


def test_bernoulli_takes_grey_levels_as_probabilities_and_clamps_what_lies_outside():
    logits = torch.tensor([[0.3, 0.3, 0.3, 0.3]])
    terms = Bernoulli().negative_log_likelihood(logits, torch.tensor([[0.25, 1.0, 2.0, -1.0]]))[0]
    p = 1 / (1 + math.exp(-0.3))
    expected = [-0.25 * math.log(p) - 0.75 * math.log(1 - p), -math.log(p), -math.log(p), -math.log(1 - p)]
    torch.testing.assert_close(terms, torch.tensor(expected))


@pytest.mark.parametrize("variance", [0.04, 1.0, None])
def test_gaussian_is_that_of_torch_distributions(variance: float | None):
    likelihood = Gaussian((3,), variance)
    log_variances = torch.full((3,), math.log(variance or 1.0))
    if variance is None:
        log_variances = torch.tensor([-3.0, 0.0, 2.0])
        with torch.no_grad():
            likelihood.raw.copy_(log_variances / 10)
        torch.testing.assert_close(likelihood.log_variance, log_variances, rtol=0, atol=0.01)
    decoded, rows = torch.randn(5, 3), torch.randn(5, 3)
    expected = -Normal(decoded, torch.exp(likelihood.log_variance / 2)).log_prob(rows)
    torch.testing.assert_close(likelihood.negative_log_likelihood(decoded, rows), expected)
    assert likelihood.mean(decoded).equal(decoded)


def test_a_learned_variance_becomes_the_mean_squared_error_of_each_feature():
    likelihood = Gaussian((2,), None)
    residuals = torch.randn(2000, 2, generator=Generator().manual_seed(0)) * torch.tensor([0.3, 2.0])
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        likelihood.negative_log_likelihood(torch.zeros(2000, 2), residuals).mean().backward()
        optimizer.step()
    torch.testing.assert_close(likelihood.log_variance.exp(), residuals.square().mean(dim=0), rtol=0.02, atol=0)


@pytest.mark.parametrize("value", [-60.0, -20.0, 0.0, 10.0, 60.0])
def test_bounds_are_kept_without_hiding_the_gradient(value: float):
    raw = torch.tensor(value, requires_grad=True)
    kept = bounded(raw, -20.0, 10.0)
    kept.backward()
    assert -20 <= kept.item() <= 10
    assert raw.grad is not None
    assert raw.grad > 0
    if -15 <= value <= 5:
        assert kept.item() == pytest.approx(value, abs=0.01)


def test_the_mean_squared_error_by_hand():
    rows, reconstruction = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    score, feature_error = MeanSquaredError()(rows, {"reconstruction": reconstruction})
    assert feature_error.tolist() == [[1.0, 0.0], [9.0, 1.0]]
    assert score.tolist() == [0.5, 5.0]


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian((2, 2), 0.5), Gaussian((2, 2), None)])
def test_the_negative_elbo_by_hand(likelihood: Likelihood):
    decoded, rows = torch.randn(3, 2, 2), torch.rand(3, 2, 2)
    mean, stddev = torch.randn(3, 4), torch.rand(3, 4) + 0.1
    answers: dict[str, Tensor] = {DECODED: decoded, "embedding": mean, "embedding_stddev": stddev}
    score, feature_error = NegativeElbo(likelihood)(rows, answers)
    p_x = TorchBernoulli(logits=decoded, validate_args=False)
    if isinstance(likelihood, Gaussian):
        p_x = Normal(decoded, math.sqrt(likelihood.fixed or 1.0))  # type: ignore[assignment]
    terms = -p_x.log_prob(rows)
    least = torch.zeros(())
    if isinstance(p_x, Normal):
        least = -p_x.log_prob(decoded)  # where a row is its own reconstruction
    torch.testing.assert_close(feature_error, terms - least, rtol=1e-3, atol=1e-3)
    kl = kl_divergence(Normal(mean, stddev), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(score, terms.sum(dim=(1, 2)) + kl, rtol=1e-3, atol=1e-3)


def test_the_units_of_a_negative_elbo_grow_with_what_the_likelihood_claims_to_know():
    units = NegativeElbo(Gaussian((4,), 0.01)).units((4,))
    torch.testing.assert_close(units["feature_error"], torch.full((4,), 10.0))
    torch.testing.assert_close(units["score"], torch.tensor(20.0))
    assert NegativeElbo(Bernoulli()).units((4,))["score"] == 2.0


def test_active_units_are_those_that_move():
    embedding = torch.stack([torch.linspace(-1, 1, 50), torch.linspace(-0.1, 0.1, 50), torch.ones(50)], dim=1)
    assert active_units(embedding) == 1
