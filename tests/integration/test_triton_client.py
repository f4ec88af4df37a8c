"""tests/triton, in an environment of its own, against a real server with several models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import artefacts
from tests.processes import Serve

SUITE = Path(__file__).parents[1] / "triton"
REQUIREMENTS = SUITE / "requirements.txt"


@pytest.fixture(scope="session")
def triton_python() -> Path:
    """Of the environment with tritonclient, made when there is none; the test is skipped where it cannot be."""
    folder = Path(sys.prefix) / "triton"
    ready, python = folder / ".ready", folder / "bin" / "python"
    if not ready.exists() or ready.read_text() != REQUIREMENTS.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]
        installed = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if installed.returncode:
            pytest.skip(f"tritonclient cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
        ready.write_text(REQUIREMENTS.read_text())
    return python


def test_tritons_own_client(serve: Callable[..., Serve], triton_python: Path, tmp_path: Path) -> None:
    exported, weights = tmp_path / "exported", tmp_path / "weights.json"
    artefacts.publish(exported, "line", artefacts.Linear.random(seed=1))
    models = {
        "line": artefacts.Linear.random(seed=2),
        "sampler": artefacts.Linear.random(seed=4, prior=True),
        "heavy": artefacts.Linear.random(width=8, embedding_size=3, seed=3),
        "wide": artefacts.Linear.random(width=256, seed=5),
    }
    for name, model in models.items():
        artefacts.publish(exported, name, model, work=40 if name == "heavy" else 0)
    weights.write_text(json.dumps({name: model.weights.tolist() for name, model in models.items()}))
    server = serve(exported)
    told = {"HOURGLASS_TRITON_ADDRESS": server.address, "HOURGLASS_TRITON_WEIGHTS": str(weights)}
    # The suite's own settings, not this project's.
    command = [
        triton_python,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        SUITE,
        "-p",
        "no:cacheprovider",
        SUITE,
    ]
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    assert not [entry for entry in server.log if entry["level"] == "error"], server.log
