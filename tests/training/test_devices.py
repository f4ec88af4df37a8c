from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator

from training import checkpoint, devices
from training.__main__ import main
from training.config import FitConfig
from training.devices import Rows, chosen
from training.errors import ConfigError
from training.fit import build
from training.run import Run
from training.trainer import Training

Config = Callable[..., FitConfig]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """As if torch had so many."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_is_a_gpu_where_there_is_one(gpus: Callable[[int], None]):
    gpus(2)
    assert (chosen("auto"), chosen("cuda"), chosen("cuda:1")) == (GPU, GPU, torch.device("cuda", 1))
    assert chosen("cpu") == CPU
    gpus(0)
    assert chosen("auto") == CPU


@pytest.mark.parametrize("asked", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused_in_one_line(asked: str, gpus: Callable[[int], None]):
    gpus(0)
    with pytest.raises(ConfigError, match=f"--device {asked}: torch .* has no GPU here: use --device cpu") as error:
        chosen(asked)
    assert "\n" not in str(error.value)


def test_a_gpu_beyond_the_last_is_refused(gpus: Callable[[int], None]):
    gpus(1)
    with pytest.raises(ConfigError, match="--device cuda:1: GPU 1 is not there: torch has 1, from 0 on"):
        chosen("cuda:1")


def test_each_of_torchruns_processes_has_its_own_gpu(gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    gpus(2)
    assert chosen("auto") == chosen("cuda") == torch.device("cuda", 1)
    assert chosen("cpu") == CPU
    with pytest.raises(ConfigError, match="each of torchrun's processes takes a GPU of its own: use --device cuda"):
        chosen("cuda:0")
    gpus(1)
    with pytest.raises(ConfigError, match="GPU 1, one for each of torchrun's processes, is not there: torch has 1"):
        chosen("auto")


def test_the_program_says_so_before_it_reads_anything(capsys: pytest.CaptureFixture[str], gpus: Callable[[int], None]):
    gpus(0)
    assert main(["fit", "--data", "no such file", "--name", "x", "--device", "cuda"]) == 2
    assert "--device cuda: torch" in capsys.readouterr().err
    assert main(["fit", "--data", "no such file", "--name", "x", "--device", "cpu", "--precision", "tf32"]) == 2
    assert "--precision tf32 is a GPU's" in capsys.readouterr().err
    assert main(["fit", "--data", "no such file", "--name", "x", "--device", "gpu"]) == 2
    assert "'device'" in capsys.readouterr().err


def test_rows_that_leave_a_gpu_no_room_stay_with_the_host(monkeypatch: pytest.MonkeyPatch):
    rows = torch.rand(1000, 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * rows.nbytes, 10**12))
    assert devices._fits(rows, GPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * rows.nbytes - 1, 10**12))
    held = Rows(rows, GPU)
    assert (held.resident, held.rows.device) == (False, CPU)


def test_rows_of_the_processor_are_where_they_were():
    rows = torch.rand(10, 3)
    held = Rows(rows, CPU)
    assert held.resident
    assert held.rows is rows
    assert held.select(torch.tensor([7, 2])).equal(rows[[7, 2]])


def test_a_run_goes_on_on_another_device_with_random_numbers_of_its_own(config: Config, tmp_path: Path):
    """A GPU's generator has 16 bytes of state."""
    rows = torch.rand(60, 6, generator=Generator().manual_seed(5))
    path = tmp_path / "c.safetensors"
    training = Training(lambda: build(config(), (6,)), config(epochs=2))
    training.run(rows, rows[:10], lambda _: None)
    training.generator = Elsewhere()  # type: ignore[assignment]
    checkpoint.write(path, training)

    def resumed() -> Training:
        again = Training(lambda: build(config(), (6,)), config(epochs=4))
        checkpoint.resume(path, again)
        return again

    first, second = resumed(), resumed()
    assert (first.epoch, first.generator.device) == (2, CPU)
    assert first.generator.get_state().equal(second.generator.get_state())
    assert not first.generator.get_state().equal(Generator().manual_seed(first.config.seed).get_state())
    for again in (first, second):
        again.run(rows, rows[:10], lambda _: None)
    assert first.epoch == 4
    assert all(value.equal(second.model.state_dict()[name]) for name, value in first.model.state_dict().items())


class Elsewhere:
    def get_state(self) -> torch.Tensor:
        return torch.arange(16, dtype=torch.uint8)


def test_a_run_may_be_resumed_on_another_device(config: Config, tmp_path: Path):
    begun = Run(tmp_path, config(device="cuda"), "0" * 64)
    assert begun.on("cpu").config == config(device="cpu")
    assert begun.on(None) == begun
