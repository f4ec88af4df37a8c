"""Where there is a GPU: what the other tests prove of the processor, or of a stand-in for a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from tests.training.parallel_worker import CASES
from training import checkpoint, devices, trainer
from training.config import FitConfig, Precision
from training.fit import build, fit
from training.progress import Progress
from training.trainer import EpochRecord, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
Config = Callable[..., FitConfig]


def rows_of(row_shape: tuple[int, ...]) -> Tensor:
    return torch.rand(1000, *row_shape, generator=Generator().manual_seed(1))


def trained(config: FitConfig, row_shape: tuple[int, ...]) -> tuple[Training, list[EpochRecord]]:
    records: list[EpochRecord] = []
    rows = rows_of(row_shape)
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, row_shape), config)
        training.run(rows, rows[:100], records.append)
    return training, records


def learned(records: list[EpochRecord]) -> list[float]:
    return [value for record in records for value in (*record.train.values(), record.early_stop_loss)]


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("the user's noise", "float16")])
def test_replayed_steps_learn_what_eager_ones_do(
    case: str, config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    row_shape, settings = CASES[case]
    small = {"hidden": (12,), "embedding_dim": 6, "epochs": 6, "batch_size": 64, "patience": 9}
    chosen = config(**{**small, "device": "cuda", **settings})
    with caplog.at_level(logging.WARNING):
        replayed, records = trained(chosen, row_shape)
    assert caplog.records == []
    assert {value.device.type for value in replayed.model.state_dict().values()} == {"cuda"}
    monkeypatch.setattr(trainer, "recorder", lambda device: None)
    eager, others = trained(chosen, row_shape)
    assert replayed.generator.get_state().equal(eager.generator.get_state())
    assert learned(records) == pytest.approx(learned(others), rel=1e-2)


@pytest.mark.parametrize("case", ["the user's noise", "float16"])
def test_what_is_not_recorded_learns_as_well(case: str, config: Config, caplog: pytest.LogCaptureFixture):
    row_shape, settings = CASES[case]
    chosen = {"device": "cuda", "hidden": (12,), "embedding_dim": 6, "epochs": 6, "batch_size": 64, **settings}
    if case == "the user's noise":
        chosen["options"] = {"noise": "tests.training.test_gpu:shifted"}
    _, records = trained(config(**chosen), row_shape)
    assert caplog.records == []
    assert records[-1].early_stop_loss < records[0].early_stop_loss


def shifted(rows: Tensor, generator: Generator) -> Tensor:
    return rows + torch.rand(1, generator=generator, device=generator.device)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_gpu_learns_what_a_processor_learns_nearly(precision: Precision, config: Config):
    settings = {"variant": "basic", "epochs": 6, "batch_size": 64}
    _, expected = trained(config(**settings, device="cpu"), (8, 8))
    for chosen in ("float32", precision):
        _, records = trained(config(**settings, device="cuda", precision=chosen), (8, 8))
        assert records[-1].early_stop_loss == pytest.approx(expected[-1].early_stop_loss, rel=0.05)


def test_compiled_networks_are_recorded(config: Config, caplog: pytest.LogCaptureFixture):
    pytest.importorskip("triton")
    settings = {"device": "cuda", "epochs": 3, "batch_size": 64}
    _, plain = trained(config(**settings), (8, 8))
    _, records = trained(config(**settings, compile=True), (8, 8))
    assert [record.message for record in caplog.records if record.name.startswith("training")] == []
    assert learned(records) == pytest.approx(learned(plain), rel=1e-2)


def test_rows_of_the_host_are_the_rows_of_the_gpu(config: Config, monkeypatch: pytest.MonkeyPatch):
    settings = config(device="cuda", epochs=3, batch_size=64)
    _, resident = trained(settings, (8, 8))
    monkeypatch.setattr(devices, "_fits", lambda rows, device: False)
    _, sent = trained(settings, (8, 8))
    assert learned(sent) == pytest.approx(learned(resident), rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "fp16"])
@pytest.mark.parametrize("then", ["cuda", "cpu"])
def test_a_run_of_a_gpu_is_resumed_there_and_on_the_processor(
    precision: Precision, then: str, config: Config, tmp_path: Path
):
    settings = config(device="cuda", epochs=4, batch_size=64, precision=precision)
    rows, path = rows_of((8, 8)), tmp_path / "c.safetensors"
    whole, _ = trained(settings, (8, 8))

    def write_and_stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            checkpoint.write(path, begun)
            raise KeyboardInterrupt

    with torch.random.fork_rng(devices=[]):
        begun = Training(lambda: build(settings, (8, 8)), settings)
        with pytest.raises(KeyboardInterrupt):
            begun.run(rows, rows[:100], write_and_stop)
        again = Training(lambda: build(settings, (8, 8)), settings.model_copy(update={"device": then}))
        checkpoint.resume(path, again)
        again.run(rows, rows[:100], lambda _: None)
    assert again.epoch == 4
    # A processor draws other noise.
    assert again.best_loss == pytest.approx(whole.best_loss, rel=1e-3 if then == "cuda" else 0.1)


def test_what_a_gpu_learned_is_published(config: Config, quiet: Progress):
    assert (fit(config(device="cuda"), quiet) / "model.onnx").exists()
