from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.parallel_worker import CASES, trained
from training.parallel import Share
from training.run import Run

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def torchrun(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_two")
    ended = torchrun(ROOT / "tests" / "training" / "parallel_worker.py", folder)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does_from_the_same_batches(case: str, by_two: Path):
    alone = trained(case)
    first, second = (load_file(by_two / f"{case}.{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() == alone.keys()
    assert all(value.equal(second[name]) for name, value in first.items())  # whoever leads
    assert first["random"].equal(alone["random"])
    for name, value in alone.items():
        if case != "float16":
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)
        elif name == "losses":  # the first step is too large for one process, and left out, not for two
            torch.testing.assert_close(first[name], value, rtol=2e-2, atol=0)


def test_fit_by_two_processes_is_one_run_and_one_model(tmp_path: Path):
    settings = ["--data", "digits", "--name", "x", "--device", "cpu", "--hidden", "16", "--embedding-dim", "4"]
    command = ["-m", "training", "fit", *settings, "--batch-size", "127", "--epochs", "2"]
    ended = torchrun(*command, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["exported/x/1"]
    assert ended.stderr.count("exporting") == 1
    (folder,) = (tmp_path / "runs" / "x").iterdir()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    one = ["fit", *settings, "--batch-size", "127", "--epochs", "2", "--runs", str(tmp_path / "one")]
    subprocess.run([sys.executable, "-m", "training", *one], cwd=tmp_path, capture_output=True, check=True)
    (alone,) = (tmp_path / "one" / "x").iterdir()
    tensors, others = (load_file(Run.open(run).checkpoint) for run in (folder, alone))
    assert tensors.keys() == others.keys()
    for name, value in others.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-5, atol=1e-5)

    # Taken up again from its first epoch, by as many.
    settings_file = json.loads((folder / "run.json").read_text())
    settings_file["config"]["epochs"] = 3
    (folder / "run.json").write_text(json.dumps(settings_file))
    ended = torchrun("-m", "training", "fit", "--resume", folder, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert ended.stdout.splitlines() == ["exported/x/3"]


def test_what_one_process_cannot_go_on_with_ends_all(tmp_path: Path):
    """Which loss is not a number only shows when both have taken part."""
    settings = ["--data", "digits", "--name", "x", "--device", "cpu", "--epochs", "2", "--learning-rate", "1e30"]
    ended = torchrun("-m", "training", "fit", *settings, folder=tmp_path)
    assert ended.returncode != 0
    assert "hourglass-train: error: the loss is nan after epoch 1" in ended.stderr
    assert not (tmp_path / "exported").exists()
    (tmp_path / "exported").write_text("not a folder")  # only the first one writes, and looks
    ended = torchrun("-m", "training", "fit", *settings, folder=tmp_path)
    assert ended.returncode != 0
    assert "is not a folder that can be written to" in ended.stderr


def test_other_commands_are_not_for_several_processes(tmp_path: Path):
    ended = torchrun("-m", "training", "reproduce", "all", folder=tmp_path)
    assert ended.returncode != 0
    assert "torchrun is for hourglass-train fit: start other commands without it" in ended.stderr


@pytest.mark.parametrize(("total", "processes"), [(33, 2), (7, 3), (1, 2), (2, 4)])
def test_shares_are_the_batch_and_nobody_is_without_a_row(total: int, processes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(Share.of(total))
    counted = [row for share in shares if share.weight for row in range(share.first, share.last)]
    assert counted == list(range(total))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(share.last > share.first for share in shares)
