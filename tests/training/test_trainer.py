from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from training import checkpoint, tensorboard
from training.autoencoder import Autoencoder, Clock, Options, unit_activity
from training.config import FitConfig
from training.errors import RunError
from training.fit import build, fit, resume
from training.networks import Architecture
from training.progress import Progress
from training.run import Run
from training.trainer import DivergedError, EpochRecord, Training

Config = Callable[..., FitConfig]


class Scripted(Autoencoder):
    """Its early-stop losses are written beforehand; it counts the rows it is trained on."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__(Architecture((2,), 1, "mlp", (2,)), Options())
        self.losses = iter(losses)
        self.seen: list[Tensor] = []

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        if not self.training:
            return {"scripted": torch.tensor(next(self.losses))}
        self.seen.append(rows)
        return super().loss(rows, clock, generator)


def run_scripted(config: FitConfig, losses: list[float]) -> tuple[Training, Scripted, list[EpochRecord]]:
    records: list[EpochRecord] = []
    training = Training(lambda: Scripted(losses), config)
    assert isinstance(training.model, Scripted)
    training.run(torch.arange(20.0).reshape(10, 2), torch.zeros(3, 2), records.append)
    return training, training.model, records


def test_training_stops_after_patience_epochs_without_a_better_loss_and_keeps_the_best(config: Config):
    weights = []
    training = Training(lambda: Scripted([5, 3, 4, 3, 1]), config(epochs=9, patience=2))
    training.run(torch.rand(10, 2), torch.zeros(3, 2), lambda _: weights.append(training._weights()))
    assert (training.epoch, training.best_epoch, training.best_loss) == (4, 2, 3.0)
    assert all(value.equal(weights[1][name]) for name, value in training.best_weights.items())
    assert not all(value.equal(weights[3][name]) for name, value in training.best_weights.items())


def test_every_row_is_seen_once_an_epoch_in_a_new_order(config: Config):
    _, model, _ = run_scripted(config(epochs=2, batch_size=4), [2, 1])
    assert [len(batch) for batch in model.seen] == [4, 4, 2] * 2
    first, second = torch.cat(model.seen[:3])[:, 0], torch.cat(model.seen[3:])[:, 0]
    assert first.sort().values.equal(torch.arange(0, 20, 2.0))
    assert second.sort().values.equal(torch.arange(0, 20, 2.0))
    assert not first.equal(second)


def test_the_learning_rate_is_a_cosine_of_the_step_alone(config: Config):
    _, _, records = run_scripted(config(epochs=4, batch_size=5, learning_rate=0.1), [4, 3, 2, 1])
    steps = [1, 3, 5, 7]  # the last step of each epoch, of 8
    expected = [0.05 * (1 + math.cos(math.pi * step / 8)) for step in steps]
    assert [record.learning_rate for record in records] == pytest.approx(expected)


def test_a_loss_that_is_no_number_ends_the_training(config: Config):
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        run_scripted(config(), [1, math.nan])


def test_an_early_stop_loss_has_the_same_noise_at_every_epoch(config: Config):
    settings = config(epochs=3, learning_rate=1e-30)
    records: list[EpochRecord] = []
    Training(lambda: build(settings, (6,)), settings).run(torch.randn(50, 6), torch.randn(9, 6), records.append)
    assert len({record.early_stop_loss for record in records}) == 1


def test_parts_that_change_within_an_epoch_are_averaged_over_the_rows_that_had_them(config: Config):
    class Phased(Autoencoder):
        def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
            (loss,) = super().loss(rows, clock, generator).values()
            return {f"phase {int(clock.progress >= 0.3)}": 0 * loss + 7}

    records: list[EpochRecord] = []
    architecture = Architecture((2,), 1, "mlp", (2,))
    training = Training(lambda: Phased(architecture, Options()), config(epochs=2, batch_size=4))
    training.run(torch.rand(10, 2), torch.rand(3, 2), records.append)
    assert [record.train for record in records] == [{"phase 0": 7.0, "phase 1": 7.0}, {"phase 1": 7.0}]


def test_the_record_has_each_part_the_learning_rate_and_what_is_monitored(config: Config, quiet: Progress):
    fit(config(variant="sparse", epochs=2, learning_rate=0.01), quiet)
    lines = [json.loads(line) for line in only_run(config()).log.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["train"].keys() == line["early_stop"].keys() == {"reconstruction_sse_per_row", "sparsity_kl"}
        assert line["early_stop_loss"] == pytest.approx(sum(line["early_stop"].values()))
        assert 0 < line["learning_rate"] < 0.01
        activity = {"active_units", "dead_units", "mean_sparsity"}
        assert line["monitor"].keys() == activity | {"rhohat_mean", "rhohat_min", "rhohat_max"}


def test_how_much_of_an_embedding_is_in_use():
    embedding = torch.tensor([[0.0, 1.0, 5.0, 0.0], [0.0, 1.0, -5.0, 0.1], [0.0, 1.0, 5.0, 0.0], [0.0, 1.0, 0.04, 0.0]])
    assert unit_activity(embedding) == {"active_units": 1.0, "dead_units": 2.0, "mean_sparsity": 8 / 16}


class Writer:
    """What a SummaryWriter is asked to draw."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.drawn, self.flushed = folder, purge_step, {}, 0
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.drawn[tag, step] = value

    def flush(self) -> None:
        self.flushed += 1


def test_tensorboard_gets_every_number_of_every_epoch(config: Config, quiet: Progress, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    fit(config(epochs=3), quiet)
    (writer,) = Writer.made
    run = only_run(config())
    assert (writer.folder, writer.purge_step, writer.flushed) == (str(run.folder), 1, 3)
    for line in map(json.loads, run.log.read_text().splitlines()):
        step = line["epoch"]
        assert writer.drawn["learning_rate", step] == line["learning_rate"]
        assert writer.drawn["train/reconstruction_sse_per_row", step] == line["train"]["reconstruction_sse_per_row"]
        assert writer.drawn["early_stop/loss", step] == line["early_stop_loss"]
        assert writer.drawn["monitor/dead_units", step] == line["monitor"]["dead_units"]
    listed = EpochRecord(1, 0.1, {}, {}, 2.0, True, 1.0, {"kl": [0.5, 0.25]})
    assert tensorboard.numbers(listed).items() >= {"monitor/kl/0": 0.5, "monitor/kl/1": 0.25}.items()


def test_without_tensorboard_nothing_is_drawn(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tensorboard.scalars(tmp_path)(EpochRecord(1, 0.1, {}, {}, 2.0, True, 1.0))
    assert list(tmp_path.iterdir()) == []


def train_to_checkpoint(settings: FitConfig, path: Path) -> Training:
    rows = torch.rand(60, 8, 8, generator=Generator().manual_seed(5))
    training = Training(lambda: build(settings, (8, 8)), settings)
    training.run(rows, rows[:10], lambda _: None)
    checkpoint.write(path, training)
    return training


def test_a_checkpoint_holds_all_of_a_training(config: Config, tmp_path: Path):
    settings = config(variant="denoising")
    training = train_to_checkpoint(settings, tmp_path / "c.safetensors")
    again = Training(lambda: build(settings, (8, 8)), settings)
    checkpoint.resume(tmp_path / "c.safetensors", again)
    checkpoint.write(tmp_path / "again.safetensors", again)
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert again.generator.get_state().equal(training.generator.get_state())
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(config: Config, tmp_path: Path, monkeypatch):
    path = tmp_path / "c.safetensors"
    training = train_to_checkpoint(config(), path)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, training)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"\xff" * 200])
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], config: Config, tmp_path: Path):
    path = tmp_path / "c.safetensors"
    train_to_checkpoint(config(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match="not a checkpoint"):
        checkpoint.load_best(path, build(config(), (8, 8)))


def test_a_checkpoint_of_another_network_is_refused(config: Config, tmp_path: Path):
    train_to_checkpoint(config(), tmp_path / "c.safetensors")
    other = config(hidden="16")
    with pytest.raises(RunError, match=r"does not fit.*size mismatch"):
        checkpoint.load_best(tmp_path / "c.safetensors", build(other, (8, 8)))
    with pytest.raises(RunError, match=r"does not fit.*size mismatch"):
        checkpoint.resume(tmp_path / "c.safetensors", Training(lambda: build(other, (8, 8)), other))


# Killed by the kernel's hand after the fourth epoch's record, before its checkpoint.
KILLED = """
import os, signal, sys
import training.fit, training.run
from training.__main__ import main
training.fit.CHECKPOINT_SECONDS = 0
record = training.run.Run.record
def record_and_die(self, epoch):
    record(self, epoch)
    if epoch.epoch == 4:
        os.kill(os.getpid(), signal.SIGKILL)
training.run.Run.record = record_and_die
main(sys.argv[1:])
"""


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.onnx")}


def without_speed(log: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rows_per_second"} for line in lines]


def only_run(config: FitConfig) -> Run:
    (folder,) = (config.runs / config.name).iterdir()
    return Run.open(folder)


def test_a_killed_and_resumed_run_ends_as_one_that_never_stopped(config: Config, tmp_path: Path, quiet: Progress):
    noise = "salt_and_pepper"  # has all there is to restore: randomness, and what `prepare` learned
    settings = {"epochs": 7, "variant": "denoising", "options": {"noise": noise}}
    whole = config(**settings, exported=tmp_path / "whole", runs=tmp_path / "whole-runs")
    exported_whole = fit(whole, quiet)

    killed = config(**settings)
    flags = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in killed.model_dump(exclude={"options"}).items()
        if value not in (None, (), {}) and value is not False and key != "hidden"
    ]
    command = [sys.executable, "-c", KILLED, "fit", *flags, "--hidden=32", f"--option=noise={noise}"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    run = only_run(killed)
    assert len(run.log.read_text().splitlines()) == 4
    assert not killed.exported.exists()

    exported_killed = resume(run, quiet)
    assert run.checkpoint.read_bytes() == only_run(whole).checkpoint.read_bytes()
    assert hashes(exported_killed) == hashes(exported_whole)
    assert len(hashes(exported_killed)) == 3
    assert without_speed(run.log) == without_speed(only_run(whole).log)


def test_a_run_killed_before_its_first_checkpoint_begins_again(config: Config, quiet: Progress):
    first = fit(config(), quiet)
    run = only_run(config())
    run.checkpoint.unlink()
    assert hashes(resume(run, quiet)) == hashes(first)
    assert len(run.log.read_text().splitlines()) == 3


def test_a_run_is_not_resumed_on_other_rows(config: Config, tmp_path: Path, quiet: Progress):
    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(30)))
    fit(config(data=str(file)), quiet)
    file.write_text("a,b\n" + "".join(f"{i},{i * i + 1}\n" for i in range(30)))
    with pytest.raises(RunError, match=r"not those that .* began with"):
        resume(only_run(config()), quiet)


def test_runs_that_start_together_get_folders_of_their_own(config: Config):
    from training import data

    dataset = data.load(config())
    folders = {Run.create(config(), dataset).folder for _ in range(3)}
    assert len(folders) == 3
    assert all(Run.open(folder).config == config() for folder in folders)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="not a run"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"config": 3}')
    with pytest.raises(RunError, match=r"run\.json"):
        Run.open(tmp_path)


def test_a_checkpoint_is_safetensors_that_anyone_can_read(published: Path):
    (run,) = (published.parent.parent.parent / "runs" / "digits").iterdir()
    tensors = load_file(run / "checkpoint.safetensors")
    assert tensors["best.encoder.1.weight"].shape == (32, 64)
    assert {name.partition(".")[0] for name in tensors} == {"model", "best", "optimizer", "random"}
