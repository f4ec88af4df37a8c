"""The VAE family: its losses in numbers, its schedules, what it refuses and what it serves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import Generator
from torch.distributions import Bernoulli, Normal, kl_divergence

from hourglass.contract.manifest import DECODER, ENCODER, GRAPHS, MODEL
from tests.training.test_export import DIGITS, answers, assert_close, read, run_of, served_of
from training.autoencoder import Autoencoder, Clock, registered
from training.config import FitConfig
from training.data import load, split
from training.errors import ConfigError
from training.fit import build, fit
from training.graphs import graphs
from training.networks import Architecture
from training.progress import Progress
from training.variants.vae import Vae

Config = Callable[..., FitConfig]
FAMILY = ["vae", "beta_vae", "annealed_beta_vae"]
START = Clock(0, 0.0)


def make(variant: str, row_shape: tuple[int, ...] = (4, 4), **options: object) -> Vae:
    torch.manual_seed(0)
    kind = registered()[variant]
    model = kind(Architecture(row_shape, 3, "mlp", (8,)), kind.options_class.model_validate(options))
    assert isinstance(model, Vae)
    return model


def kl(model: Vae, rows: torch.Tensor) -> torch.Tensor:
    """[n], by torch.distributions."""
    with torch.no_grad():
        mean, log_variance = model.posterior(rows)
    return kl_divergence(Normal(mean, torch.exp(log_variance / 2)), Normal(0.0, 1.0)).sum(dim=1)


@pytest.mark.parametrize(("row_shape", "options"), [((4, 4), {}), ((6,), {"variance": 0.3})])
def test_the_loss_is_the_negative_elbo_of_one_sample(row_shape: tuple[int, ...], options: dict[str, object]):
    model, rows = make("vae", row_shape, **options), torch.rand(32, *row_shape)
    parts = model.loss(rows, START, Generator().manual_seed(5))
    with torch.no_grad():
        mean, log_variance = model.posterior(rows)
        noise = torch.randn(32, 3, generator=Generator().manual_seed(5))
        decoded = model.decoder(mean + torch.exp(log_variance / 2) * noise)
    if len(row_shape) == 2:
        p_x: torch.distributions.Distribution = Bernoulli(logits=decoded, validate_args=False)
    else:
        p_x = Normal(decoded, 0.3**0.5)
    log_likelihood = p_x.log_prob(rows).flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(parts["reconstruction_nats_per_row"].detach(), -log_likelihood)
    torch.testing.assert_close(parts["kl_nats_per_row"].detach(), kl(model, rows).mean())
    assert len(parts) == 2


def test_the_generator_is_the_only_source_of_chance():
    model, rows = make("vae"), torch.rand(8, 4, 4)
    one, same, other = (model.loss(rows, START, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one["reconstruction_nats_per_row"] == same["reconstruction_nats_per_row"]
    assert one["reconstruction_nats_per_row"] != other["reconstruction_nats_per_row"]
    assert one["kl_nats_per_row"] == other["kl_nats_per_row"]
    first, second = model(rows), model(rows)
    assert all(first[name].equal(second[name]) for name in first)


def test_beta_weighs_the_kl_and_is_told_as_the_paper_normalises_it():
    model, rows = make("beta_vae", beta=3.0), torch.rand(8, 4, 4)
    parts = model.loss(rows, START, Generator())
    torch.testing.assert_close(parts["beta_kl_nats_per_row"].detach(), 3 * kl(model, rows).mean())
    monitor = model.monitor(rows, START)
    assert monitor["beta"] == 3
    assert monitor["normalised_beta"] == pytest.approx(3 * 3 / 16)
    assert model.facts()["normalised beta (beta M / N)"] == "0.5625"


def test_capacity_is_linear_and_arrives():
    model = make("annealed_beta_vae", capacity_from=1.0, capacity_to=21.0, capacity_steps=100)
    capacities = [model.capacity(Clock(step, step / 400)) for step in (0, 25, 50, 99, 100, 400)]  # type: ignore[operator]
    assert capacities == pytest.approx([1.0, 6.0, 11.0, 20.8, 21.0, 21.0])
    assert [model.settled(Clock(step, step / 400)) for step in (0, 99, 100, 400)] == [False, False, True, True]


def test_capacity_takes_half_of_the_training_unless_told_otherwise():
    model = make("annealed_beta_vae", capacity_to=8.0)
    assert [model.capacity(Clock(7, progress)) for progress in (0.0, 0.25, 0.5, 1.0)] == [0.0, 4.0, 8.0, 8.0]  # type: ignore[operator]
    assert [model.settled(Clock(7, progress)) for progress in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]


def test_capacity_holds_the_mean_kl_of_the_batch_not_each_rows():
    model, rows = make("annealed_beta_vae", gamma=7.0, capacity_to=0.5, capacity_steps=1), torch.rand(64, 4, 4)
    rows[:32] *= 4  # rows whose KL differs
    assert kl(model, rows).std() > 0.01
    gap = model.loss(rows, Clock(10, 1.0), Generator())["capacity_gap_nats_per_row"].detach()
    torch.testing.assert_close(gap, 7 * (kl(model, rows).mean() - 0.5).abs())


def test_the_record_has_the_kl_of_each_dimension_and_the_units_in_use(config: Config, quiet: Progress):
    options = {"capacity_to": 4.0, "capacity_steps": 10}
    published = fit(config(variant="annealed_beta_vae", options=options, epochs=2), quiet)
    records = [json.loads(line) for line in run_of(published).log.read_text().splitlines()]
    assert [record["monitor"]["capacity_nats"] for record in records] == [4.0, 4.0]
    for record in records:
        assert len(record["monitor"]["kl_nats_per_dimension"]) == 8
        assert record["monitor"]["kl_nats"] == pytest.approx(sum(record["monitor"]["kl_nats_per_dimension"]), rel=1e-5)
        assert 0 <= record["monitor"]["active_units"] <= 8
        assert record["early_stop"].keys() == {"reconstruction_nats_per_row", "capacity_gap_nats_per_row"}
    card = (published / "README.md").read_text()
    assert "C(t) | linear from 0 to 4 nats over 10 steps" in card


@pytest.mark.parametrize(
    ("variant", "row_shape", "options", "says"),
    [
        ("vae", (6,), {"likelihood": "bernoulli"}, "needs rows in [0, 1]"),
        ("vae", (4, 4), {"variance": 0.1}, "add likelihood=gaussian"),
        ("vae", (6,), {"variance": 0}, "'variance'"),
        ("vae", (6,), {"likelihood": "laplace"}, "'likelihood'"),
        ("vae", (6,), {"beta": 2}, "unknown vae option 'beta'"),
        ("beta_vae", (6,), {"beta": 0}, "'beta'"),
        ("annealed_beta_vae", (6,), {"capacity_from": 5, "capacity_to": 4}, "C must not fall"),
        ("annealed_beta_vae", (6,), {"gamma": -1}, "'gamma'"),
        ("annealed_beta_vae", (6,), {"capacity_steps": 0}, "'capacity_steps'"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    config: Config, variant: str, row_shape: tuple[int, ...], options: dict[str, object], says: str
):
    with pytest.raises(ConfigError) as error:
        build(config(variant=variant, options=options), row_shape)
    assert says in str(error.value)


def test_a_capacity_that_would_never_arrive_is_refused(config: Config, quiet: Progress, tmp_path: Path):
    settings = config(variant="annealed_beta_vae", epochs=3, options={"capacity_steps": 31})
    with pytest.raises(ConfigError, match="this training has 30 gradient steps, not 31"):
        fit(settings, quiet)
    assert not (tmp_path / "exported").exists()


def test_the_likelihood_suits_the_rows_unless_told_otherwise():
    assert make("vae", (4, 4)).facts() == {"likelihood": "Bernoulli"}
    assert make("vae", (6,)).facts() == {"likelihood": "Gaussian, variance learned per feature"}
    assert make("vae", (4, 4), likelihood="gaussian", variance=0.2).facts() == {"likelihood": "Gaussian, variance 0.2"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """exported/digits/1, a small VAE of digits."""
    folder = tmp_path_factory.mktemp("vae")
    small = {"hidden": (32,), "embedding_dim": 8, "batch_size": 64, "epochs": 8, "variant": "vae"}
    settings = {"data": "digits", "name": "digits", "exported": folder / "exported", "runs": folder / "runs", **small}
    return fit(FitConfig.model_validate(settings), Progress(Console(file=io.StringIO())))


def test_the_graphs_have_the_deviation_and_draw_nothing(exported: Path):
    artefact = read(exported)
    assert artefact.manifest.prior == "standard_normal"
    outputs = {
        name: [value.name for value in onnx.load_from_string(artefact.files[name]).graph.output] for name in GRAPHS
    }
    assert outputs == {name: list(artefact.manifest.graph_outputs(name)) for name in GRAPHS}
    assert outputs[ENCODER] == ["embedding", "embedding_stddev"]
    assert "embedding_stddev" in outputs[MODEL]
    assert "decoded" not in outputs[MODEL]
    one, two = (answers(artefact, MODEL, DIGITS[:50]) for _ in range(2))
    assert all((one[name] == two[name]).all() for name in one)


def test_the_embedding_is_the_mean_and_the_decoder_gives_the_likelihoods_mean(exported: Path):
    artefact, model = read(exported), served_of(run_of(exported)).autoencoder
    assert isinstance(model, Vae)
    encoded = answers(artefact, ENCODER, DIGITS)
    with torch.no_grad():
        mean, log_variance = model.posterior(torch.from_numpy(DIGITS) / 16)
        assert_close(encoded["embedding"], mean.numpy())
        assert_close(encoded["embedding_stddev"], torch.exp(log_variance / 2).numpy())
        expected = model.decoder(mean).sigmoid().numpy()
    decoded = answers(artefact, DECODER, encoded["embedding"])["reconstruction"]
    assert_close(decoded / 16, expected)
    assert_close(answers(artefact, MODEL, DIGITS)["reconstruction"] / 16, expected)
    assert (decoded >= 0).all()
    assert (decoded <= 16).all()


def test_the_served_score_is_the_negative_elbo_by_hand(exported: Path):
    whole = answers(read(exported), MODEL, DIGITS)
    model = served_of(run_of(exported)).autoencoder
    rows, mean, stddev = (
        DIGITS / 16,
        whole["embedding"].astype(np.float64),
        whole["embedding_stddev"].astype(np.float64),
    )
    with torch.no_grad():
        logits = model.decoder(torch.from_numpy(whole["embedding"])).double().numpy()
    terms = np.logaddexp(0, logits) - rows * logits
    divergence = 0.5 * (mean**2 + stddev**2 - 1 - 2 * np.log(stddev)).sum(axis=1)
    np.testing.assert_allclose(whole["feature_error"], terms, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole["score"], terms.sum(axis=(1, 2)) + divergence, rtol=1e-4)


def test_cross_entropy_stays_finite_where_the_model_is_wrong_and_sure(exported: Path):
    served = served_of(run_of(exported))
    with torch.no_grad():
        served.autoencoder.decoder[-2].bias.add_(200.0)  # type: ignore[index, union-attr, operator]
    session = onnxruntime.InferenceSession(graphs(served)[MODEL])
    score, feature_error = session.run(["score", "feature_error"], {"input": np.zeros_like(DIGITS[:20])})
    assert np.isfinite(score).all()
    assert feature_error.min() > 100


def test_the_manifest_and_the_card_say_how_the_score_is_made(exported: Path):
    artefact = read(exported)
    score = artefact.manifest.score
    assert score.name == "negative_elbo"
    assert "Bernoulli" in score.formula
    assert "KL(q(z | x) || N(0, I)), in nats" in score.formula
    card = (exported / "README.md").read_text()
    for words in (
        score.formula.replace("|", r"\|"),
        "cross-entropy of the pixel clamped",
        "embedding_stddev",
        "likelihood | Bernoulli |",
    ):
        assert words in card
    assert "None" not in card
    whole = answers(artefact, MODEL, split(load(run_of(exported).config), 0).calibration.numpy())
    metrics = artefact.manifest.provenance.metrics
    assert metrics["negative_elbo_nats_per_row"] == pytest.approx(whole["score"].mean(), rel=1e-4)
    parts = metrics["reconstruction_nats_per_row"] + metrics["kl_nats_per_row"]
    assert parts == pytest.approx(metrics["negative_elbo_nats_per_row"])
    assert metrics["active_units"] == (whole["embedding"].var(axis=0) > 0.01).sum()


@pytest.mark.parametrize("variant", FAMILY)
def test_a_table_is_scored_in_nats_of_its_own_variances(variant: str, config: Config, quiet: Progress, tmp_path: Path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, 1)) * [1.0, 100.0, 1e-3, 1.0] + rng.normal(size=(400, 4)) * [0.02, 2.0, 1e-3, 5.0]
    np.save(tmp_path / "t.npy", table)
    folder = fit(config(data=str(tmp_path / "t.npy"), name="t", variant=variant, embedding_dim=2, epochs=5), quiet)
    artefact, served = read(folder), served_of(run_of(folder))
    with torch.inference_mode():
        expected = served(torch.from_numpy(table.astype(np.float32)))
    whole = answers(artefact, MODEL, table.astype(np.float32))
    np.testing.assert_allclose(whole["score"], expected["score"].numpy(), rtol=1e-4, atol=1e-3)
    assert artefact.manifest.prior == "standard_normal"


def test_variants_without_a_prior_say_so(published: Path):
    assert read(published).manifest.prior is None
    kinds: dict[str, type[Autoencoder]] = registered()
    assert {name for name, kind in kinds.items() if kind.prior} == set(FAMILY)
