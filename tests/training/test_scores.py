"""The scores against closed forms, and --score's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from hourglass.contract.manifest import EMBEDDING, FEATURE_ERROR, RECONSTRUCTION, SCORE
from training import scores
from training.autoencoder import Autoencoder
from training.config import FitConfig
from training.covariance import covariance, whitening
from training.distances import (
    EmbeddingMahalanobis,
    EmbeddingNearest,
    ResidualMahalanobis,
    Sum,
    TopFeatures,
    WhitenedError,
)
from training.errors import ConfigError
from training.fit import build, score
from training.robust import KEPT, typical
from training.scoring import MeanSquaredError, Score

N, WIDTH, SIZE = 400, 5, 2
COMBINED = "residual_mahalanobis+embedding_nearest"


def drawn(n: int = N, seed: int = 0, spreads: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows whose errors and embeddings are correlated normal numbers."""
    generator = Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=Generator().manual_seed(99))
    errors = 0.3 * spreads * torch.randn(n, WIDTH, generator=generator) @ mixing
    embedding = spreads * torch.randn(n, SIZE, generator=generator) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + 3
    reconstruction = embedding @ torch.randn(SIZE, WIDTH, generator=Generator().manual_seed(7))
    return reconstruction + errors, {EMBEDDING: embedding, RECONSTRUCTION: reconstruction}


def learned(part: Score, *, robust: bool = False) -> Score:
    part.learn(*drawn(), robust)
    return part


PARTS = [WhitenedError, TopFeatures, ResidualMahalanobis, EmbeddingMahalanobis, EmbeddingNearest]


@pytest.mark.parametrize("part", PARTS)
def test_an_ordinary_row_scores_about_one_and_its_features_make_the_score(part: type[Score]):
    rows, answers = drawn(2000, seed=1)
    score, feature_error = learned(part())(rows, answers)
    assert score.shape == (2000,)
    assert feature_error.shape == rows.shape
    assert (feature_error >= 0).all()
    torch.testing.assert_close(feature_error.mean(dim=1), score, rtol=1e-4, atol=1e-5)
    assert (0.4 if part is EmbeddingNearest else 0.7) < score.mean() < (4 if part is TopFeatures else 1.5)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_stranger_scores_higher(part: type[Score]):
    usual, strange = (learned(part())(*drawn(1000, 2, spreads))[0].median() for spreads in (1.0, 4.0))
    assert strange > 3 * usual


def test_the_whitened_error_is_in_units_of_each_feature():
    rows, answers = drawn()
    errors = rows - answers[RECONSTRUCTION]
    score, _ = learned(WhitenedError())(rows, answers)
    expected = (errors.square() / (errors.square().mean(dim=0) + 1e-4)).mean(dim=1)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_the_mahalanobis_distances_are_those_of_numpy():
    rows, answers = drawn(50, seed=3)
    reference, known = drawn()
    errors = (rows - answers[RECONSTRUCTION]).double().numpy()
    for part, of, seen, floor in (
        (ResidualMahalanobis(), errors, (reference - known[RECONSTRUCTION]).numpy(), 1e-4),
        (EmbeddingMahalanobis(), answers[EMBEDDING].double().numpy(), known[EMBEDDING].numpy(), None),
    ):
        mean, matrix = covariance(seen, robust=False)
        matrix = matrix + np.eye(len(matrix)) * (floor or 1e-4 * np.trace(matrix) / len(matrix))
        expected = [(row - mean) @ np.linalg.solve(matrix, row - mean) / len(mean) for row in of]
        np.testing.assert_allclose(learned(part)(rows, answers)[0], expected, rtol=1e-3)


def test_the_nearest_are_those_of_brute_force():
    rows, answers = drawn(60, seed=4)
    part = learned(EmbeddingNearest())
    coreset = drawn()[1][EMBEDDING]  # 400 rows: all of them
    three = torch.cdist(answers[EMBEDDING].double(), coreset.double()).sort(dim=1).values[:, :3]
    score, _ = part(rows, answers)
    ratio = score / three.mean(dim=1).square()
    torch.testing.assert_close(ratio, ratio[:1].expand(60), rtol=1e-4, atol=0)
    others = torch.cdist(coreset.double(), coreset.double()).sort(dim=1).values[:, 1:4].mean(dim=1).square().mean()
    near = 0.01 * coreset.var(dim=0, correction=0).sum()
    torch.testing.assert_close(1 / ratio[0], others + near.double(), rtol=1e-4, atol=0)


def test_rows_that_are_there_many_times_are_one_neighbour():
    rows, answers = drawn(40)
    many = {name: values.repeat(30, 1) for name, values in answers.items()}
    part = EmbeddingNearest()
    part.learn(rows.repeat(30, 1), many, False)
    assert part.coreset.shape == (40, SIZE)
    assert torch.isfinite(part(rows, answers)[0]).all()


def test_embeddings_that_are_all_alike_score_without_a_fault():
    rows, answers = drawn(40)
    answers[EMBEDDING] = torch.ones(40, SIZE)
    for part in (EmbeddingNearest(), EmbeddingMahalanobis()):
        part.learn(rows, answers, False)
        score, feature_error = part(rows, answers)
        assert torch.isfinite(score).all()
        assert torch.isfinite(feature_error).all()


def test_top_features_look_at_the_largest_quarter():
    rows, answers = torch.tensor([[0.0, 0, 0, 0, 0, 0, 3, 1]]), {RECONSTRUCTION: torch.zeros(1, 8)}
    score, feature_error = TopFeatures()(rows, answers)
    assert score.item() == (9 + 1) / 2
    assert feature_error[0].tolist() == [0, 0, 0, 0, 0, 0, 36, 4]


def test_a_sum_is_a_sum():
    rows, answers = drawn(30, seed=5)
    parts = [learned(ResidualMahalanobis()), learned(EmbeddingNearest())]
    both = Sum(parts)
    for name, index in ((SCORE, 0), (FEATURE_ERROR, 1)):
        torch.testing.assert_close(
            both(rows, answers)[index], parts[0](rows, answers)[index] + parts[1](rows, answers)[index]
        )
        assert both.units((WIDTH,))[name] == max(part.units((WIDTH,))[name] for part in parts)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_whitening_shares_out_the_squared_distance(features: int, seed: int):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(features, features + 2))
    matrix, x = root @ root.T, rng.normal(size=features)
    whitened = whitening(matrix) @ x
    assert whitened @ whitened == pytest.approx(x @ np.linalg.solve(matrix, x), rel=1e-6)


def test_whitening_of_independent_features_is_each_over_its_spread():
    np.testing.assert_allclose(whitening(np.diag([4.0, 0.25])), np.diag([0.5, 2.0]), atol=1e-12)


def test_the_robust_covariance_is_that_of_the_ordinary_rows():
    rng = np.random.default_rng(0)
    ordinary, anomalies = rng.normal(size=(950, 3)), 12 + rng.normal(size=(50, 3))
    rows = np.concatenate([ordinary, anomalies])
    mean, matrix = covariance(rows, robust=True)
    assert np.abs(mean).max() < 0.1
    assert np.diag(matrix).max() < 1.1
    assert np.diag(covariance(rows, robust=False)[1]).min() > 5


class Halving(Autoencoder):
    """Repeats half of a row: the larger the row, the larger the error."""

    def build(self):
        return torch.nn.Identity(), torch.nn.Identity()

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {RECONSTRUCTION: rows / 2}


def test_the_rows_repeated_worst_are_left_out(table_model: Autoencoder):
    rows = torch.arange(20.0)[:, None]
    kept = typical(Halving(table_model.architecture, table_model.options), rows)
    assert kept.flatten().tolist() == list(range(round(20 * KEPT)))


@pytest.fixture
def table_model() -> Autoencoder:
    return build(config(), (WIDTH,))


def config(**more: object) -> FitConfig:
    return FitConfig.model_validate({"data": "x.csv", "name": "x", **more})


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        ({}, (8,), COMBINED),
        ({"training_data": "mixed"}, (8,), "residual_mahalanobis+embedding_mahalanobis"),
        ({"no_examples": True}, (8,), "residual_mahalanobis+embedding_mahalanobis"),
        ({}, (6, 6), "mean_squared_error"),
        ({"variant": "vae"}, (8,), "negative_elbo"),
        ({"variant": "sparse"}, (8,), "mean_squared_error"),
        ({"variant": "vae", "score": "mean_squared_error"}, (8,), "mean_squared_error"),
        ({"score": "top_features"}, (6, 6), "top_features"),
    ],
)
def test_which_score_a_model_gets(settings: dict[str, object], shape: tuple[int, ...], expected: str):
    asked = config(**settings)
    assert score(asked, build(asked, shape)).name == expected


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ("residual_mahalanobi", "did you mean residual_mahalanobis?"),
        ("negative_elbo", "only the VAE family"),
        ("mean_squared_error+embedding_nearest", "mean_squared_error is of no fixed size"),
        ("whitened_error+whitened_error", "comes twice"),
        ("", "unknown score ''"),
    ],
)
def test_unknown_scores_are_refused(asked: str, complaint: str, table_model: Autoencoder):
    with pytest.raises(ConfigError, match="--score") as refused:
        scores.chosen(asked, table_model, mixed=False, keeps_rows=True)
    assert complaint in str(refused.value)


def test_no_examples_keeps_no_row_in_the_model(table_model: Autoencoder):
    with pytest.raises(ConfigError, match="--no-examples forbids"):
        scores.chosen("embedding_nearest", table_model, mixed=False, keeps_rows=False)


def test_rows_too_wide_for_a_matrix_of_features():
    wide = build(config(), (2049,))
    assert score(config(), wide).name == "whitened_error+embedding_nearest"
    with pytest.raises(ConfigError, match="these have 2,049; use whitened_error"):
        score(config(score=COMBINED), wide)


def test_the_mean_squared_error_learns_nothing():
    rows, answers = drawn(10)
    before, _ = MeanSquaredError()(rows, answers)
    part = MeanSquaredError()
    part.learn(*drawn(), False)
    torch.testing.assert_close(part(rows, answers)[0], before)
