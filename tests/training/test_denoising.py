"""The corruptions in a loss, the emphasised loss, a user's own corruption, and layers pretrained one by one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from tests.training.models import make, parts
from training.autoencoder import Clock
from training.errors import ConfigError
from training.networks import Architecture
from training.variants.denoising import Denoising
from training.variants.stacked import Stacked

# ---- denoising


class Spy(Denoising):
    """Keeps what its encoder is shown."""

    def seen(self, rows: Tensor, missing: Tensor) -> Tensor:
        self.shown = rows
        return super().seen(rows, missing)


def spy(**options: object) -> Spy:
    torch.manual_seed(0)
    return Spy(Architecture((4, 4), 3, "mlp", (8,)), Denoising.options_class.model_validate(options))


@pytest.mark.parametrize("noise", ["masking", "gaussian", "salt_and_pepper"])
def test_denoising_sees_damaged_rows_and_is_held_to_clean_ones(noise: str):
    model = spy(noise=noise, noise_level=0.5)
    rows = torch.rand(200, 4, 4) + 0.5
    model.prepare(rows, Generator())
    found = parts(model, rows)
    damaged = (model.shown != rows).float().mean().item()
    assert damaged == pytest.approx(1.0 if noise == "gaussian" else 0.5, abs=0.05)
    clean = (model.decode(model.encode(model.shown)) - rows).square().sum() / 200
    torch.testing.assert_close(found["reconstruction_sse_per_row"], clean)
    # What it answers is for the row as it came: nothing random is served.
    assert model(rows)["reconstruction"].equal(model(rows)["reconstruction"])


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.5, 2.0)])
def test_the_emphasised_loss_weighs_damaged_and_clean_features(loss: str, alpha: float, beta: float):
    model = spy(noise_level=0.5, damaged_weight=alpha, clean_weight=beta, loss=loss)
    rows = torch.rand(50, 4, 4)
    rows[:, 0] = 0  # damaged without being changed: it counts as damaged all the same
    (found,) = parts(model, rows).values()
    chosen = torch.rand(rows.shape, generator=Generator().manual_seed(0)) < 0.5
    assert model.shown[chosen].eq(0).all()
    decoded = model.decoder(model.encode(model.shown))
    if loss == "mse":
        terms = (decoded - rows).square()
    else:
        terms = functional.binary_cross_entropy_with_logits(decoded, rows, reduction="none")
    torch.testing.assert_close(found, (alpha * terms[chosen].sum() + beta * terms[~chosen].sum()) / 50)
    assert f"w = {alpha:g} for damaged features, {beta:g} for others" in model.objective


def test_salt_and_pepper_learn_the_extremes_of_the_training_rows():
    options = {"noise": "salt_and_pepper", "noise_level": 1.0}
    table, images = make("denoising", (2,), 1, (2,), **options), make("denoising", (2, 1), 1, (2,), **options)
    assert isinstance(table, Denoising)
    assert isinstance(images, Denoising)
    table.prepare(torch.tensor([[-1.0, 5.0], [2.0, 7.0]]), Generator())
    assert set(table.corrupt(torch.zeros(100, 2), Generator()).rows[:, 0].tolist()) == {-1.0, 2.0}
    assert set(table.corrupt(torch.zeros(100, 2), Generator()).rows[:, 1].tolist()) == {5.0, 7.0}
    images.prepare(torch.tensor([[[0.0], [0.1]], [[0.2], [1.0]]]), Generator())
    assert set(images.corrupt(torch.zeros(100, 2, 1), Generator()).rows.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise_level": 0}, "greater than 0"),
        ({"noise_level": 1.5}, "noise_level is a share for masking noise: at most 1, not 1.5"),
        ({"noise_level": "inf"}, "finite"),
        ({"noise": "maskin"}, r"unknown noise 'maskin' (did you mean masking?); or module:function"),
        ({"noise": "a b:c"}, "'a b:c' is not module:function"),
        ({"noise": "../x:y"}, "is not module:function"),
        ({"noise": "m:f", "noise_level": 0.1}, "noise_level is not for noise 'm:f'"),
        ({"noise": "gaussian", "clean_weight": 0}, "gaussian noise damages every feature"),
        ({"damaged_weight": 0, "clean_weight": 0}, "both 0"),
        ({"damaged_weight": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_noise_is_refused(options: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=re.escape(says)):
        make("denoising", (4,), 2, **options)


# ---- denoising, with a corruption of the user's


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """damage.py in the current folder, forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "damage.py"
    sys.modules.pop("damage", None)


def test_a_users_corruption_damages_training_rows(own_module: Path):
    own_module.write_text(
        "import torch\n"
        "def lose_a_row(rows, generator):\n"
        "    lost = torch.randint(rows.shape[1], (len(rows),), generator=generator)\n"
        "    rows[torch.arange(len(rows)), lost] = 0\n"
        "    return rows\n"
    )
    model = make("denoising", (4, 4), 3, (8,), noise="damage:lose_a_row", damaged_weight=3.0)
    assert isinstance(model, Denoising)
    rows = torch.rand(20, 4, 4) + 0.5
    before = rows.clone()
    damaged = model.corrupt(rows, Generator().manual_seed(0))
    assert rows.equal(before)
    assert ((damaged.rows == 0).all(dim=2).sum(dim=1) == 1).all()
    assert damaged.where.equal(damaged.rows == 0)
    assert parts(model, rows)["reconstruction_sse_per_row"] == parts(model, rows)["reconstruction_sse_per_row"]
    assert "damaged by damage:lose_a_row" in model.objective


@pytest.mark.parametrize(
    ("source", "noise", "says"),
    [
        ("", "absent:f", "noise 'absent:f': cannot import absent: ModuleNotFoundError"),
        ("def g(rows, generator): ...", "damage:f", "damage has no function f (known: g)"),
        ("f = 3", "damage:f", "damage has no function f"),
        ("1 / 0", "damage:f", "cannot import damage: ZeroDivisionError: division by zero"),
    ],
)
def test_a_corruption_that_cannot_be_found_is_refused_at_once(own_module: Path, source: str, noise: str, says: str):
    own_module.write_text(source)
    with pytest.raises(ConfigError, match=re.escape(says)):
        make("denoising", (4,), 2, noise=noise)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("rows[:, 1:]", "'damage:f' returned torch.float32 [5, 3] for rows of torch.float32 [5, 4]"),
        ("rows.double()", "returned torch.float64"),
        ("None", "returned NoneType"),
        ("rows / 0", "returned NaN or infinity"),
        ("rows.nonsense()", "'damage:f' failed: AttributeError"),
    ],
)
def test_what_a_corruption_returns_is_checked(own_module: Path, body: str, says: str):
    own_module.write_text(f"def f(rows, generator): return {body}")
    with pytest.raises(ConfigError, match=re.escape(says)):
        parts(make("denoising", (4,), 2, noise="damage:f"), torch.rand(5, 4))


# ---- stacked


def test_layers_learn_one_after_the_other_on_clean_input_from_below():
    model = make("stacked", (6,), 3, (5, 4), noise="gaussian", noise_level=1e-9, pretraining=0.6)
    assert isinstance(model, Stacked)
    rows = torch.randn(7, 6)
    first, second, third = (model.encoder[i] for i in (1, 3, 5))  # type: ignore[index]
    last, middle, back = (model.decoder[i] for i in (4, 2, 0))  # type: ignore[index]
    h1 = first(rows).tanh()
    h2 = second(h1).tanh()
    expected = [last(h1) - rows, middle(h2) - h1, back(third(h2)) - h2]
    trained = [{first, last}, {second, middle}, {third, back}]
    for layer, (error, modules) in enumerate(zip(expected, trained, strict=True)):
        clock = Clock(0, 0.2 * layer + 0.01)
        assert model.layer(clock) == layer
        assert not model.settled(clock)
        model.zero_grad()
        ((name, loss),) = parts(model, rows, clock).items()
        torch.testing.assert_close(loss, error.square().sum() / 7)
        assert name.startswith(f"layer_{layer + 1}_")
        loss.backward()
        learning = {m for m in (*model.encoder, *model.decoder) if any(p.grad is not None for p in m.parameters())}  # type: ignore[union-attr]
        assert learning == modules
    for progress in (0.6, 0.8, 1.0):
        assert model.settled(Clock(0, progress))
        torch.testing.assert_close(
            parts(model, rows, Clock(0, progress))["reconstruction_sse_per_row"],
            (model(rows)["reconstruction"] - rows).square().sum() / 7,
        )


@pytest.mark.parametrize("noise", ["masking", "salt_and_pepper"])
def test_every_layers_input_is_damaged(noise: str):
    model = make("stacked", (6,), 3, (40,), noise=noise, noise_level=0.5)
    assert isinstance(model, Stacked)
    rows, seen = torch.randn(50, 6), []
    model.encoder[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[index, union-attr]
    parts(model, rows, Clock(0, 0.2))
    clean = model.encoder[1](model.seen(rows, rows.isnan())).tanh()  # type: ignore[index]
    low, high = clean.aminmax(dim=0)
    changed = seen[0] != clean
    assert changed.any()
    values = ((seen[0] == 0), (seen[0] == low) | (seen[0] == high))[noise == "salt_and_pepper"]
    assert values[changed].all()
