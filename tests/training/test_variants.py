"""What every registered variant must do, whatever it minimises; a tenth one, written as one file, too."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Generator, Tensor

from hourglass.contract import layout
from hourglass.contract.manifest import CLIPPED, EMBEDDING, MODEL, RECONSTRUCTION
from training import autoencoder, checkpoint, variants
from training.autoencoder import Autoencoder, Clock, registered
from training.config import FitConfig
from training.errors import ConfigError
from training.fit import build, fit
from training.networks import Network
from training.progress import Progress
from training.scaling import Scaling
from training.trainer import EpochRecord, Training

Config = Callable[..., FitConfig]
END = Clock(10**6, 1.0)  # where every schedule has ended


class Case(NamedTuple):
    variant: str
    network: Network
    row_shape: tuple[int, ...]

    def settings(self, config: Config, **more: object) -> FitConfig:
        own = {"variant": self.variant, "network": self.network, "hidden": "8", "embedding_dim": 4, "batch_size": 16}
        return config(**own, **more)

    def rows(self, n: int = 64) -> Tensor:
        """Two hidden causes and a little noise, in the units that models see; images are black and white."""
        generator = Generator().manual_seed(1)
        causes, mixing = (torch.randn(*size, generator=generator) for size in ((n, 2), (2, math.prod(self.row_shape))))
        rows = causes @ mixing + 0.1 * torch.randn(n, mixing.shape[1], generator=generator)
        rows = rows.reshape(-1, *self.row_shape)
        return Scaling.of(rows)(rows) if rows.ndim == 2 else (rows > 0).float()


SHAPES: list[tuple[Network, tuple[int, ...]]] = [("mlp", (6,)), ("mlp", (4, 5)), ("conv", (6, 5)), ("conv", (8, 8, 3))]


def cases(variant: str) -> list[Case]:
    return [Case(variant, network, shape) for network, shape in SHAPES if network in registered()[variant].networks]


def published_cases(variant: str) -> list[Case]:
    """A table, and images: with convolutions where there are any."""
    return [cases(variant)[0], cases(variant)[-1]]


EVERY_CASE = [case for variant in registered() for case in cases(variant)]
EVERY_PUBLISHED_CASE = [case for variant in registered() for case in published_cases(variant)]


def shown(case: Case) -> str:
    return f"{case.variant}-{case.network}-{'x'.join(map(str, case.row_shape))}"


def made(case: Case, config: Config) -> Autoencoder:
    torch.manual_seed(0)
    return build(case.settings(config), case.row_shape).eval()


def assert_rows_do_not_touch_each_other(
    answer: Callable[[np.ndarray], dict[str, np.ndarray]], rows: np.ndarray, *, takes_missing: bool
) -> None:
    """A row of NaN is answered by NaN, or by numbers where cells may be missing, and changes no other row's answer; one
    row alone is answered as among others."""
    clean, alone = answer(rows), answer(rows[:1])
    damaged = rows.copy()
    damaged[2] = math.nan
    others = np.arange(len(rows)) != 2
    for name, value in answer(damaged).items():
        if not takes_missing:
            assert np.isnan(value[2]).any() or name == CLIPPED, name  # a count: NaN is not clipped
        np.testing.assert_allclose(value[others], clean[name][others], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(alone[name], clean[name][:1], rtol=1e-4, atol=1e-5, err_msg=name)


def check_answers(case: Case, config: Config) -> None:
    model, rows = made(case, config), case.rows()

    @torch.no_grad()
    def answer(batch: np.ndarray) -> dict[str, np.ndarray]:
        embedding = model.embed(torch.from_numpy(batch))
        return {k: v.numpy() for k, v in {**embedding, RECONSTRUCTION: model.decode(embedding[EMBEDDING])}.items()}

    answers = answer(rows.numpy())
    assert answers[EMBEDDING].shape == (64, 4)
    assert answers[RECONSTRUCTION].shape == rows.shape
    assert_rows_do_not_touch_each_other(answer, rows.numpy(), takes_missing=model.takes_missing)


def check_learning(case: Case, config: Config) -> None:
    """What it minimises in the end falls, and falls alike, bit for bit, from the same seed."""
    settings, rows = case.settings(config, epochs=15, learning_rate=0.03, patience=15), case.rows()

    def objective(model: Autoencoder) -> float:
        with torch.no_grad():
            parts = model.eval().loss(rows, END, Generator().manual_seed(0))
        return sum(part.item() for part in parts.values())

    def train() -> tuple[float, float, list[EpochRecord], dict[str, Tensor]]:
        training, records = Training(lambda: build(settings, case.row_shape), settings), list[EpochRecord]()
        training.model.prepare(rows, Generator().manual_seed(0))
        before = objective(training.model)
        training.run(rows, rows[:16], records.append)
        return before, objective(training.model), records, training.best_weights

    (before, after, records, weights), (_, _, again, same) = train(), train()
    assert after < before - 0.05 * abs(before)
    assert [(r.train, r.early_stop, r.monitor) for r in records] == [(r.train, r.early_stop, r.monitor) for r in again]
    assert all(value.equal(same[name]) for name, value in weights.items())
    for record in records:
        assert record.early_stop_loss == pytest.approx(sum(record.early_stop.values()))
        assert all(math.isfinite(value) for value in np.hstack(list(record.monitor.values())))


class _Stopped(Exception):
    pass


def check_resume(case: Case, config: Config, folder: Path) -> None:
    """Stopped after two of four epochs and resumed from its checkpoint, it ends as if it had never stopped."""
    settings, rows, file = case.settings(config, epochs=4), case.rows(), folder / "checkpoint.safetensors"

    def begin() -> Training:
        return Training(lambda: build(settings, case.row_shape), settings)

    def stop_after_two(record: EpochRecord) -> None:
        if record.epoch == 2:
            checkpoint.write(file, stopped)
            raise _Stopped

    whole = begin()
    whole.run(rows, rows[:16], lambda _: None)
    stopped = begin()
    with pytest.raises(_Stopped):
        stopped.run(rows, rows[:16], stop_after_two)
    resumed = begin()
    checkpoint.resume(file, resumed)
    assert resumed.epoch == 2
    resumed.run(rows, rows[:16], lambda _: None)
    for name, training in (("whole", whole), ("resumed", resumed)):
        checkpoint.write(folder / name, training)
    assert (folder / "whole").read_bytes() == (folder / "resumed").read_bytes()


def check_settings(case: Case, config: Config) -> None:
    model = made(case, config)
    assert model.summary
    assert model.objective
    assert "\n" not in model.objective
    assert all(field.description for field in model.options_class.model_fields.values())
    with pytest.raises(ConfigError, match=f"unknown {case.variant} option 'nonsense'"):
        build(case.settings(config, options={"nonsense": 1}), case.row_shape)


def check_publishing(case: Case, config: Config, folder: Path, quiet: Progress) -> None:
    """fit exports it, which proves parity with torch; bare onnxruntime answers each row for itself, and repeats."""
    rows = case.rows(80).numpy()
    np.save(folder / "rows.npy", rows)
    published = fit(case.settings(config, data=str(folder / "rows.npy"), name="tiny", epochs=2), quiet)
    artefact = layout.read(published.parent.parent, "tiny", 1)
    assert artefact.manifest.variant == case.variant
    content = (published / MODEL).read_bytes()
    assert not {node.op_type for node in onnx.load_from_string(content).graph.node} & {"RandomNormalLike", "Bernoulli"}
    session = onnxruntime.InferenceSession(content)
    names = [output.name for output in session.get_outputs()]

    def answer(batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"input": batch}), strict=True))

    answers = answer(rows[:9])
    assert answers[EMBEDDING].shape == (9, 4)
    assert all((value == answer(rows[:9])[name]).all() for name, value in answers.items())
    assert_rows_do_not_touch_each_other(answer, rows[:9], takes_missing=artefact.manifest.takes_missing)


@pytest.mark.parametrize("case", EVERY_CASE, ids=shown)
class TestEveryVariant:
    def test_answers_have_their_shapes_and_rows_do_not_touch_each_other(self, case: Case, config: Config):
        check_answers(case, config)

    def test_its_objective_falls_and_repeats_bit_for_bit(self, case: Case, config: Config):
        check_learning(case, config)

    def test_a_resumed_training_ends_as_one_that_never_stopped(self, case: Case, config: Config, tmp_path: Path):
        check_resume(case, config, tmp_path)

    def test_it_says_what_it_is_and_refuses_unknown_options(self, case: Case, config: Config):
        check_settings(case, config)


@pytest.mark.parametrize("case", EVERY_PUBLISHED_CASE, ids=shown)
def test_every_variant_is_published(case: Case, config: Config, tmp_path: Path, quiet: Progress):
    check_publishing(case, config, tmp_path, quiet)


@pytest.mark.parametrize("variant", [name for name, kind in registered().items() if "conv" not in kind.networks])
def test_a_variant_without_convolutions_says_so(variant: str, config: Config):
    with pytest.raises(ConfigError, match=f"{variant} is not defined for --network conv: use mlp"):
        build(config(variant=variant, network="conv"), (8, 8))


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
        if name.startswith(f"{variants.__name__}."):
            del sys.modules[name]


def test_a_tenth_variant_is_one_file_and_does_all_of_this(
    variants_folder: Path, config: Config, tmp_path: Path, quiet: Progress
):
    (variants_folder / "shrinking.py").write_text(
        "from training.autoencoder import Autoencoder\n"
        "class Shrinking(Autoencoder):\n"
        "    variant, summary, objective = 'shrinking', 'shrinks', 'squared error and size'\n"
        "    def loss(self, rows, clock, generator):\n"
        "        return {**super().loss(rows, clock, generator), 'size': self.encode(rows).square().mean()}\n"
    )
    for case in cases("shrinking"):
        check_answers(case, config)
        check_learning(case, config)
        check_resume(case, config, tmp_path)
        check_settings(case, config)
    check_publishing(cases("shrinking")[0], config, tmp_path, quiet)


def test_two_variants_of_one_name_are_refused(variants_folder: Path):
    (variants_folder / "plain.py").write_text(
        "from training.autoencoder import Autoencoder\nclass Plain(Autoencoder):\n    variant = 'basic'\n"
    )
    with pytest.raises(TypeError, match="two variants are called 'basic'"):
        registered()
