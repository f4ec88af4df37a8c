"""The main job with the real programs: hourglass-train, hourglass-serve, hourglass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import csv
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from hourglass import Client
from tests.conftest import REPOSITORY
from tests.processes import Serve
from training import checkpoint, data
from training.fit import build
from training.graphs import Served
from training.run import Run
from training.scaling import Scaling


def program(module: str, *arguments: str, cwd: Path) -> str:
    """What the program prints last."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


MODELS = {
    "basic": ["--variant", "basic", "--hidden", "32"],
    "denoising": ["--variant", "denoising", "--network", "conv", "--hidden", "8,16"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and exported/ of two small models of the digits."""
    folder = tmp_path_factory.mktemp("trained")
    for name, settings in MODELS.items():
        printed = program("training", "fit", "--data", "digits", "--name", name, "--epochs", "4", *settings, cwd=folder)
        assert printed.splitlines()[-1] == f"exported/{name}/1"
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_server_answers_what_torch_answers(trained: Path, serve: Callable[..., Serve], name: str) -> None:
    (folder,) = (trained / "runs" / name).iterdir()
    run = Run.open(folder)
    dataset = data.load(run.config)
    splits = data.split(dataset, run.config.seed)
    model = build(run.config, dataset.row_shape)
    checkpoint.load_best(run.checkpoint, model)
    with torch.inference_mode():
        expected = Served(Scaling.of(splits.train), model, model.score()).eval()(dataset.rows)

    with Client(serve(trained / "exported").address) as client:
        answers = {
            "embedding": client.embed(name, dataset.rows.numpy()).values,
            "reconstruction": client.denoise(name, dataset.rows.numpy()).values,
            "score": client.score(name, dataset.rows.numpy()).score,
        }
    for output, answer in answers.items():
        np.testing.assert_allclose(answer, expected[output].numpy(), rtol=1e-4, atol=1e-5)


def test_files_in_answers_out(trained: Path, tmp_path: Path, serve: Callable[..., Serve]) -> None:
    server = serve(trained / "exported")
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", X=digits.images, y=digits.target)
    common = ("digits.npz", "--model", "basic", "--server", server.address)
    program("hourglass", "score", *common, "--id", "y", "--out", "scores.csv", cwd=tmp_path)
    program("hourglass", "embed", *common, "--out", "embeddings.npy", cwd=tmp_path)
    program("hourglass", "denoise", *common, "--out", "denoised.npy", cwd=tmp_path)
    with Client(server.address) as client:
        scores = client.score("basic", digits.images)
        embeddings = client.embed("basic", digits.images)
    table = csv.read_csv(tmp_path / "scores.csv")
    assert table.column("y").to_pylist() == digits.target.tolist()
    np.testing.assert_allclose(table.column("score").to_numpy(), scores.score, rtol=1e-6)
    assert table.column("is_anomaly").to_pylist() == scores.is_anomaly.tolist()
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), embeddings.values, rtol=1e-6)
    assert np.load(tmp_path / "denoised.npy").shape == (1797, 8, 8)


def test_a_table_of_real_data_is_ranked(shared_data: Path, tmp_path: Path, serve: Callable[..., Serve]) -> None:
    file = shared_data / "adbench" / "6_cardio.npz"
    program("training", "fit", "--data", str(file), "--name", "cardio", "--exported", "exported", cwd=tmp_path)
    server = serve(tmp_path / "exported")
    arguments = ("score", str(file), "--model", "cardio", "--server", server.address, "--id", "y")
    program("hourglass", *arguments, "--out", "scores.csv", cwd=tmp_path)
    table = csv.read_csv(tmp_path / "scores.csv")
    assert roc_auc_score(table.column("y").to_numpy(), table.column("score").to_numpy()) > 0.75


def test_the_demo(tmp_path: Path) -> None:
    printed = program("examples.demo", cwd=tmp_path)
    assert "server stopped, exit code 0" in printed
    with Image.open(tmp_path / "runs" / "demo" / "digits.png") as picture:
        assert picture.size[0] > 500


def test_the_gpu_smoke(tmp_path: Path) -> None:
    assert program("benchmarks.gpu_smoke", cwd=tmp_path)
