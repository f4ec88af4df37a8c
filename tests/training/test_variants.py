"""What every registered variant must do, and the two that there are, against closed forms."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor

from training import autoencoder, variants
from training.autoencoder import Autoencoder, Clock, Options, registered, total
from training.config import FitConfig
from training.errors import ConfigError
from training.fit import build
from training.networks import Architecture
from training.trainer import Training
from training.variants.basic import Basic
from training.variants.denoising import Denoising, DenoisingOptions

Config = Callable[..., FitConfig]
NETWORKS = [("mlp", (6,)), ("mlp", (4, 5)), ("conv", (6, 5)), ("conv", (8, 8, 3))]


def make(variant: str, network: str, row_shape: tuple[int, ...], hidden: tuple[int, ...] = (8,)) -> Autoencoder:
    torch.manual_seed(0)
    kind = registered()[variant]
    return kind(Architecture(row_shape, 3, network, hidden), kind.options_class())  # type: ignore[arg-type]


@pytest.mark.parametrize(("network", "row_shape"), NETWORKS)
@pytest.mark.parametrize("variant", registered())
class TestEveryVariant:
    def test_answers_have_their_shapes_and_rows_do_not_touch_each_other(
        self, variant: str, network: str, row_shape: tuple[int, ...]
    ):
        model = make(variant, network, row_shape).eval()
        rows = torch.randn(5, *row_shape)
        with torch.no_grad():
            answers = model(rows)
            assert answers["embedding"].shape == (5, 3)
            assert answers["reconstruction"].shape == rows.shape
            damaged = rows.clone()
            damaged[2] = math.nan
            for name, value in model(damaged).items():
                assert value[2].isnan().any()
                torch.testing.assert_close(value[[0, 1, 3, 4]], answers[name][[0, 1, 3, 4]])

    def test_the_loss_falls_and_repeats_bit_for_bit(
        self, variant: str, network: str, row_shape: tuple[int, ...], config: Config
    ):
        generator = Generator().manual_seed(1)
        mixing = torch.randn(2, math.prod(row_shape), generator=generator)
        rows = torch.randn(64, 2, generator=generator) @ mixing
        rows = (rows / rows.std()).reshape(-1, *row_shape)

        def train() -> tuple[list[float], dict[str, Tensor]]:
            settings = config(
                variant=variant, network=network, hidden="16", epochs=15, batch_size=16, learning_rate=0.01
            )
            training, losses = Training(lambda: build(settings, row_shape), settings), []
            training.run(rows, rows[:16], lambda record: losses.append(sum(record.train.values())))
            return losses, training.best_weights

        (losses, weights), (again, same) = train(), train()
        assert losses[-1] < 0.8 * losses[0]
        assert losses == again
        assert all(value.equal(same[name]) for name, value in weights.items())

    def test_the_loss_is_summed_over_features_and_averaged_over_rows(
        self, variant: str, network: str, row_shape: tuple[int, ...]
    ):
        model = make(variant, network, row_shape)
        rows = torch.rand(1, *row_shape)
        if variant == "denoising":
            model.options = DenoisingOptions(noise="gaussian", noise_level=1e-30)
        one = total(model.loss(rows, Clock(0, 0.0), Generator()))
        five = total(model.loss(rows.expand(5, *row_shape), Clock(0, 0.0), Generator()))
        torch.testing.assert_close(one, five)
        torch.testing.assert_close(one, (model(rows)["reconstruction"] - rows).square().sum())


@pytest.mark.parametrize("variant", registered())
def test_every_variant_says_what_it_is_for_and_what_it_minimises(variant: str):
    kind = registered()[variant]
    assert kind.summary
    assert kind.objective
    assert all(field.description for field in kind.options_class.model_fields.values())


def test_basic_loss_in_numbers():
    model = Basic(Architecture((2,), 1, "mlp", (1,)), Options())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder[-2].bias.copy_(torch.tensor([1.0, -1.0]))  # type: ignore[index, union-attr]
    rows = torch.tensor([[0.0, 0.0], [3.0, -1.0]])  # errors (1, 1) and (4, 0)
    assert model.loss(rows, Clock(0, 0.0), Generator()) == {"reconstruction_sse_per_row": torch.tensor((2.0 + 4.0) / 2)}


class Spy(Denoising):
    """Keeps what it is asked to encode."""

    def encode(self, rows: Tensor) -> Tensor:
        self.seen = rows
        return super().encode(rows)


@pytest.mark.parametrize("noise", ["masking", "gaussian", "salt_and_pepper"])
def test_denoising_sees_damaged_rows_and_is_held_to_clean_ones(noise: str):
    options = DenoisingOptions.model_validate({"noise": noise, "noise_level": 0.5})
    model = Spy(Architecture((4, 4), 3, "mlp", (8,)), options)
    rows = torch.rand(200, 4, 4) + 0.5
    model.prepare(rows, Generator())
    parts = model.loss(rows, Clock(0, 0.0), Generator().manual_seed(0))
    damaged = (model.seen != rows).float().mean().item()
    assert damaged == pytest.approx(1.0 if noise == "gaussian" else 0.5, abs=0.05)
    clean = (model.decode(model.encode(model.seen)) - rows).square().sum() / 200
    torch.testing.assert_close(parts["reconstruction_sse_per_row"], clean)
    # What it answers is for the row as it came: nothing random is served.
    assert model(rows)["reconstruction"].equal(model(rows)["reconstruction"])


def test_salt_and_pepper_learn_the_extremes_of_the_training_rows():
    options = DenoisingOptions(noise="salt_and_pepper", noise_level=1.0)
    table = Denoising(Architecture((2,), 1, "mlp", (2,)), options)
    table.prepare(torch.tensor([[-1.0, 5.0], [2.0, 7.0]]), Generator())
    assert set(table.corrupt(torch.zeros(100, 2), Generator())[:, 0].tolist()) == {-1.0, 2.0}
    assert set(table.corrupt(torch.zeros(100, 2), Generator())[:, 1].tolist()) == {5.0, 7.0}
    images = Denoising(Architecture((2, 1), 1, "mlp", (2,)), options)
    images.prepare(torch.tensor([[[0.0], [0.1]], [[0.2], [1.0]]]), Generator())
    assert set(images.corrupt(torch.zeros(100, 2, 1), Generator()).flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    "options", [{"noise_level": 0}, {"noise_level": 1.5}, {"noise": "pink"}, {"noise_level": "inf"}, {"level": 0.1}]
)
def test_wrong_noise_is_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        DenoisingOptions.model_validate(options)


def test_unknown_options_and_variants_name_the_nearest(config: Config):
    with pytest.raises(ConfigError, match=r"unknown denoising option 'noise_levl' \(did you mean noise_level\?\)"):
        build(config(variant="denoising", options={"noise_levl": 0.1}), (8, 8))
    with pytest.raises(ConfigError, match=r"unknown variant 'denosing' \(did you mean denoising\?\)"):
        build(config(variant="denosing"), (8, 8))


@pytest.fixture
def variants_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of variants, forgotten after the test."""
    folder = tmp_path / "more"
    folder.mkdir()
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(folder)])
    monkeypatch.setattr(autoencoder, "_registry", dict(autoencoder._registry))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_new_variant_is_one_file(variants_folder: Path, config: Config):
    (variants_folder / "shrinking.py").write_text(
        "from training.autoencoder import Autoencoder\n"
        "class Shrinking(Autoencoder):\n"
        "    variant, summary, objective = 'shrinking', 'shrinks', 'x'\n"
        "    def loss(self, rows, clock, generator):\n"
        "        return {**super().loss(rows, clock, generator), 'size': self.encode(rows).square().mean()}\n"
    )
    settings = config(variant="shrinking", epochs=2)
    records = []
    Training(lambda: build(settings, (4,)), settings).run(torch.rand(20, 4), torch.rand(4, 4), records.append)
    assert "shrinking" in registered()
    assert records[0].train.keys() == records[0].early_stop.keys() == {"reconstruction_sse_per_row", "size"}
    assert records[0].early_stop_loss == pytest.approx(sum(records[0].early_stop.values()))


def test_two_variants_of_one_name_are_refused(variants_folder: Path):
    (variants_folder / "plain.py").write_text(
        "from training.autoencoder import Autoencoder\nclass Plain(Autoencoder):\n    variant = 'basic'\n"
    )
    with pytest.raises(TypeError, match="two variants are called 'basic'"):
        registered()
