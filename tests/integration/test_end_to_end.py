"""The main job with the real programs: hourglass-train, hourglass-serve, hourglass."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import csv
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from hourglass import Client, HourglassError
from tests.conftest import REPOSITORY
from tests.processes import Serve
from training import checkpoint, data
from training.autoencoder import registered
from training.config import FitConfig
from training.fit import build, fit
from training.graphs import Served
from training.progress import Progress
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and exported/: every variant, small, on the digits, and one of them as a conv network."""
    folder = tmp_path_factory.mktemp("trained")
    for name, settings in MODELS.items():
        config = FitConfig(
            data="digits", name=name, epochs=2, exported=folder / "exported", runs=folder / "runs", **settings
        )
        assert fit(config, Progress(Console(file=io.StringIO()))) == folder / "exported" / name / "1"
    return folder


MODELS: dict[str, dict[str, Any]] = {name.replace("_", "-"): {"variant": name} for name in registered()}
MODELS["conv"] = {"variant": "denoising", "network": "conv", "hidden": (8, 16)}


@pytest.fixture(scope="module")
def client(trained: Path) -> Iterator[Client]:
    server = Serve(trained / "exported").wait_ready()
    with Client(server.address) as client:
        yield client
    server.kill()


@pytest.mark.parametrize("name", MODELS)
def test_the_server_answers_what_torch_answers(trained: Path, client: Client, name: str) -> None:
    (folder,) = (trained / "runs" / name).iterdir()
    run = Run.open(folder)
    dataset = data.load(run.config)
    splits = data.split(dataset, run.config.seed)
    model = build(run.config, dataset.row_shape)
    checkpoint.load_best(run.checkpoint, model)
    with torch.inference_mode():
        expected = Served(Scaling.of(splits.train), model, model.score()).eval()(dataset.rows)

    rows = dataset.rows.numpy()
    has_prior = client.model(name).prior != ""
    embeddings = client.embed(name, rows, with_stddev=has_prior)
    answers = {
        "embedding": embeddings.values,
        "reconstruction": client.denoise(name, rows).values,
        "score": client.score(name, rows).score,
        **({"embedding_stddev": embeddings.stddev} if has_prior else {}),
    }
    for output, answer in answers.items():
        np.testing.assert_allclose(answer, expected[output].numpy(), rtol=1e-4, atol=2e-4, err_msg=output)
    decoded = client.decode(name, embeddings.values).values
    np.testing.assert_allclose(decoded, answers["reconstruction"], rtol=1e-4, atol=2e-4)
    if has_prior:
        drawn = client.generate(name, 20, seed=1)
        assert drawn.values.shape == (20, 8, 8)
        assert np.isfinite(drawn.values).all()
    else:
        with pytest.raises(HourglassError, match="without a prior"):
            client.generate(name, 20)


def test_the_training_data_does_not_drift_and_its_negative_does(client: Client) -> None:
    images = load_digits().images.astype(np.float32)
    client.score("conv", images)
    before = client.drift("conv")
    assert before.sketch.rows == client.model("conv").calibration.rows
    assert before.now is not None
    assert not before.now
    client.score("conv", np.tile(16 - images, (2, 1, 1)))
    after = client.drift("conv").now
    assert after is not None
    assert after.drifted.mean() > 0.5


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
    settings = ("--name", "cardio", "--training-data", "mixed", "--exported", "exported")
    program("training", "fit", "--data", str(file), *settings, cwd=tmp_path)
    server = serve(tmp_path / "exported")
    arguments = ("score", str(file), "--model", "cardio", "--server", server.address, "--id", "y")
    program("hourglass", *arguments, "--out", "scores.csv", cwd=tmp_path)
    table = csv.read_csv(tmp_path / "scores.csv")
    assert roc_auc_score(table.column("y").to_numpy(), table.column("score").to_numpy()) > 0.85


def test_the_demo(tmp_path: Path) -> None:
    printed = program("examples.demo", cwd=tmp_path)
    assert "server stopped, exit code 0" in printed
    with Image.open(tmp_path / "runs" / "demo" / "digits.png") as picture:
        assert picture.size[0] > 500


def test_the_gpu_smoke(tmp_path: Path) -> None:
    assert program("benchmarks.gpu_smoke", cwd=tmp_path)
