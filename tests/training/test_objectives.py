"""What the variants minimise, against closed forms, autograd and arithmetic by hand."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from tests.training.models import make, parts
from training.autoencoder import Autoencoder, Clock
from training.errors import ConfigError
from training.networks import Architecture
from training.variants.basic import Basic, BasicOptions
from training.variants.contractive import Contractive
from training.variants.k_sparse import KSparse, largest
from training.variants.sparse import Sparse, kl

# ---- reconstruction: basic


def test_squared_error_in_numbers():
    model = make("basic", (2,), 1, (1,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder[-2].bias.copy_(torch.tensor([1.0, -1.0]))  # type: ignore[index, union-attr]
    rows = torch.tensor([[0.0, 0.0], [3.0, -1.0]])  # errors (1, 1) and (4, 0)
    assert parts(model, rows) == {"reconstruction_sse_per_row": torch.tensor((2.0 + 4.0) / 2)}


def test_cross_entropy_in_numbers():
    model = make("basic", (1, 2), 1, (1,), loss="cross_entropy")
    logits = torch.tensor([0.0, 2.0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder[-2].bias.copy_(logits)  # type: ignore[index, union-attr]
    rows = torch.tensor([[[0.25, 1.0]], [[1.0, 1.5]]])  # beyond 1 counts as 1
    white = math.log(1 + math.exp(-2.0))
    (found,) = parts(model, rows).items()
    assert found[0] == "reconstruction_cross_entropy_per_row"
    assert found[1].item() == pytest.approx(math.log(2) + white, rel=1e-6)
    assert model(rows)["reconstruction"].flatten().tolist() == pytest.approx(logits.sigmoid().tolist() * 2)


@pytest.mark.parametrize("variant", ["basic", "denoising", "stacked", "sparse", "contractive"])
def test_cross_entropy_is_not_for_tables_and_the_objective_names_it(variant: str):
    with pytest.raises(ConfigError, match=r"rows in \[0, 1\].*table's columns are standardised.*loss=mse"):
        make(variant, (4,), 2, loss="cross_entropy")
    assert "log y" in make(variant, (2, 2), 2, loss="cross_entropy").objective
    assert "(x - y)^2" in make(variant, (2, 2), 2).objective


@pytest.mark.parametrize("variant", ["basic", "sparse", "k_sparse", "contractive"])
def test_losses_are_averaged_over_rows(variant: str):
    model, rows = make(variant, (3, 4), 5, (8,)).eval(), torch.rand(2, 3, 4)
    both = parts(model, rows)
    for name, value in both.items():
        if name != "sparsity_kl":  # of rhohat, whatever the rows
            each = [parts(model, row[None])[name] for row in rows]
            torch.testing.assert_close(value, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("variant", ["basic", "denoising", "stacked", "sparse", "k_sparse", "contractive"])
def test_tied_weights_are_one_set(variant: str):
    options = {} if variant in ("k_sparse", "contractive") else {"tied": True}
    model = make(variant, (6,), 2, (5,), **options)
    shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    assert shapes == [(2,), (2, 5), (5,), (5,), (5, 6), (6,)]


def test_tied_weights_are_not_for_convolutions():
    with pytest.raises(ConfigError, match="tied weights are for fully connected layers: use --network mlp"):
        Basic(Architecture((8, 8), 2, "conv", (4,)), BasicOptions(tied=True))


# ---- sparse


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_the_kl_of_two_coins(rho: float, rhohat: float):
    expected = rho * math.log(rho / rhohat) + (1 - rho) * math.log((1 - rho) / (1 - rhohat))
    assert kl(rho, torch.tensor([rhohat] * 3)).item() == pytest.approx(3 * expected, rel=1e-3, abs=1e-5)


def test_the_kl_stays_finite_where_sigmoids_round():
    rhohat = torch.tensor([0.0, 1.0], requires_grad=True)
    assert kl(0.05, rhohat).isfinite()


def test_rhohat_is_a_running_mean_with_the_gradient_of_the_batch():
    model = make("sparse", (4,), 3, rho=0.2, beta=2.0)
    assert isinstance(model, Sparse)
    model.prepare(torch.randn(100, 4), Generator())
    before, rows = model.rhohat.clone(), torch.randn(8, 4)
    found = parts(model.train(), rows)["sparsity_kl"]
    mean = model.encode(rows).mean(dim=0)
    expected = 0.9 * before + 0.1 * mean.detach()
    torch.testing.assert_close(model.rhohat, expected)
    torch.testing.assert_close(found, 2.0 * kl(0.2, expected))
    slope = 2.0 * (-0.2 / expected + 0.8 / (1 - expected))  # d KL / d rhohat
    bias = model.encoder[-2].bias  # type: ignore[index, union-attr]
    (gradient,) = torch.autograd.grad(found, bias, retain_graph=True)  # type: ignore[arg-type]
    (wanted,) = torch.autograd.grad((slope * mean).sum(), bias)  # type: ignore[arg-type]
    torch.testing.assert_close(gradient, wanted)


def test_looking_does_not_move_rhohat():
    model = make("sparse", (4,), 3).eval()
    assert isinstance(model, Sparse)
    before = model.rhohat.clone()
    parts(model, torch.randn(8, 4))
    assert model.rhohat.equal(before)


def test_training_brings_activations_to_rho():
    model = make("sparse", (6,), 12, rho=0.1, beta=5.0).train()
    rows = torch.randn(256, 6, generator=Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(parts(model, rows).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert model.encode(rows).mean(dim=0).tolist() == pytest.approx([0.1] * 12, abs=0.03)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rho": 0}, "'rho': Input should be greater than 0"),
        ({"rho": 1}, "'rho': Input should be less than 1"),
        ({"rho": "nan"}, "'rho'"),
        ({"beta": 0}, "'beta'"),
        ({"activation": "relu"}, "must lie in (0, 1): take sigmoid (got 'relu'"),
    ],
)
def test_wrong_sparsity_is_refused(options: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=re.escape(says)):
        make("sparse", (4,), 3, **options)


# ---- k-sparse


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0]), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_the_k_largest_by_value_are_kept_whatever_the_ties(rows: list[list[float]], k: int):
    code = torch.tensor(rows)
    kept = largest(code, k)
    for row, result in zip(rows, kept.tolist(), strict=True):
        assert sorted(value for value in result if value) == sorted(v for v in sorted(row)[-k:] if v)
        assert all(value in (0.0, given) for value, given in zip(result, row, strict=True))


def test_only_kept_units_learn():
    code = torch.tensor([[1.0, -5.0, 3.0, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(largest(code, 2).square().sum(), code)
    assert gradient.tolist() == [[0.0, 0.0, 6.0, 4.0]]


def test_k_falls_linearly_in_half_the_epochs_and_alpha_k_are_served():
    model = make("k_sparse", (6,), 40, k=10, k_start=30, alpha=1.5)
    assert isinstance(model, KSparse)
    rows = torch.randn(9, 6)
    for progress, k in ((0.0, 30), (0.25, 20), (0.5, 10), (0.75, 10), (1.0, 10)):
        clock, seen = Clock(0, progress), []
        hook = model.decoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        parts(model, rows, clock)
        hook.remove()
        assert ((seen[0] != 0).sum(dim=1) == k).all()
        assert model.settled(clock) == (progress >= 0.5)
        assert model.monitor(rows, clock)["k"] == k
    assert ((model(rows)["embedding"] != 0).sum(dim=1) == 15).all()
    assert model.facts() == {"active units": "30 falling to 10 in training, 15 served"}


def test_k_sparse_is_linear_and_reconstructs_with_the_transpose():
    model, rows = make("k_sparse", (6,), 4, k=4), torch.randn(5, 6)
    weight, bias = model.encoder[1].weight, model.encoder[1].bias  # type: ignore[index, union-attr]
    expected = (rows @ weight.T + bias) @ weight + model.decoder[0].bias  # type: ignore[index, operator, union-attr]
    torch.testing.assert_close(model(rows)["reconstruction"], expected)


def test_a_choice_that_rounding_makes_is_not_decided():
    model = make("k_sparse", (3,), 3, k=2)
    with torch.no_grad():
        model.encoder[1].weight.copy_(torch.eye(3))  # type: ignore[index, union-attr]
        model.encoder[1].bias.zero_()  # type: ignore[index, union-attr, operator]
    rows = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 2.0], [3.0, 2.0, 1.99999], [-1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    assert model.decided(rows, 1e-4).tolist() == [True, False, False, True, False]
    assert make("k_sparse", (3,), 3, k=3).decided(rows, 1e-4).all()
    assert make("basic", (3,), 3).decided(rows, 1e-4).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 9}, "option 'k': 9 units of an embedding of 8 cannot be active"),
        ({"k": 2, "k_start": 9}, "option 'k_start': 9 units of an embedding of 8"),
        ({"k": 4, "k_start": 2}, "'k_start': 2 is below k, 4"),
        ({"k": 0}, "'k'"),
        ({"alpha": 0.5}, "'alpha'"),
    ],
)
def test_wrong_k_is_refused(options: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=re.escape(says)):
        make("k_sparse", (6,), 8, **options)


# ---- contractive


def jacobian_norms(model: Autoencoder, rows: Tensor) -> Tensor:
    """||df/dx||_F^2 row by row, by autograd."""
    jacobians = [torch.autograd.functional.jacobian(model.encode, row[None]) for row in rows]  # type: ignore[no-untyped-call]
    return torch.stack([jacobian.square().sum() for jacobian in jacobians])


@pytest.mark.parametrize(
    ("hidden", "activation", "method"),
    [
        ((), "sigmoid", "closed form for one sigmoid layer"),
        ((), "tanh", "exact, by automatic differentiation"),
        ((7,), "sigmoid", "exact, by automatic differentiation"),
        ((7, 6), "linear", "exact, by automatic differentiation"),
    ],
)
@pytest.mark.parametrize("row_shape", [(5,), (3, 4)])
def test_the_penalty_is_autograds_jacobian(
    hidden: tuple[int, ...], activation: str, method: str, row_shape: tuple[int, ...]
):
    model, rows = (
        make("contractive", row_shape, 4, hidden, activation=activation, contraction=0.3),
        torch.rand(6, *row_shape),
    )
    assert isinstance(model, Contractive)
    expected = jacobian_norms(model, rows)
    torch.testing.assert_close(model.norms(rows, model.encode(rows)), expected)
    torch.testing.assert_close(parts(model, rows)["contraction"], 0.3 * expected.mean())
    with torch.no_grad():  # as the early-stop rows are looked at
        torch.testing.assert_close(parts(model, rows)["contraction"], 0.3 * expected.mean())
    assert model.facts() == {"Jacobian": method}


def test_the_closed_form_and_autograd_give_one_gradient():
    model, rows = make("contractive", (5,), 4), torch.rand(6, 5)
    assert isinstance(model, Contractive)
    weights = list(model.encoder.parameters())
    closed = torch.autograd.grad(model.norms(rows, model.encode(rows)).sum(), weights)
    exact = torch.autograd.grad(model.exact_norms(rows).sum(), weights)
    torch.testing.assert_close(closed, exact)


def test_hutchinsons_estimate_is_right_on_average():
    model, row = make("contractive", (5,), 4, (7,), jacobian="hutchinson", contraction=0.5), torch.rand(1, 5)
    assert isinstance(model, Contractive)
    with torch.no_grad():
        estimates = model.estimated_norms(row.expand(20_000, 5), Generator().manual_seed(0))
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - jacobian_norms(model, row)[0]) < 5 * error
    expected = 0.5 * model.estimated_norms(row, Generator().manual_seed(0)).mean()
    torch.testing.assert_close(parts(model, row)["contraction"], expected)
    assert "Hutchinson" in model.facts()["Jacobian"]
