"""`make gpu-smoke`: the server on a GPU gives the CPU's answers, and without a GPU it says so and ends.

With a GPU: train two small models, serve them with --device cpu and with --device cuda, compare the answers of the
three RPCs. Without one: prove that --device cuda is refused with exit code 2 and one line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.serving import serving
from hourglass import Client
from service import devices
from service.start import StartError

ATOL, RTOL = 1e-5, 1e-4
ROWS = 600

console = Console(width=100)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder)
        _train(exported)
        try:
            devices.choose("cuda")
        except StartError as error:
            return _refusal_is_clear(exported, str(error))
        return _compare(exported)


def _train(exported: Path) -> None:
    """A table-like and a convolutional model, small: what they learn does not matter here."""
    for name, network in (("mlp", "mlp"), ("conv", "conv")):
        command = ["fit", "--data", "digits", "--name", name, "--network", network, "--epochs", "3"]
        folders = ["--exported", str(exported), "--runs", str(exported / ".runs")]
        subprocess.run([sys.executable, "-m", "training", *command, *folders], check=True)


def _refusal_is_clear(exported: Path, expected: str) -> int:
    command = [sys.executable, "-m", "service", "--exported", str(exported), "--device", "cuda"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = ended.stderr.splitlines()
    console.print(f"no GPU here; hourglass-serve --device cuda ended with exit code {ended.returncode}:")
    console.print("\n".join(lines), markup=False)
    clear = ended.returncode == 2 and lines == [f"hourglass-serve: error: {expected}"]
    console.print("as it should" if clear else "NOT as it should: exit code 2 and one line were expected")
    return 0 if clear else 1


def _compare(exported: Path) -> int:
    cpu, _ = _answers(exported, "cpu")
    cuda, device = _answers(exported, "cuda")
    table = Table("model", "answer", "rows", "largest difference", "within 1e-5 + 1e-4 x", title=f"on {device}")
    good = device.startswith("cuda")
    for (model, answer), expected in cpu.items():
        difference = np.abs(cuda[model, answer] - expected)
        within = bool((difference <= ATOL + RTOL * np.abs(expected)).all())
        good = good and within
        table.add_row(model, answer, str(len(expected)), f"{difference.max():.2g}", "yes" if within else "NO")
    console.print(table)
    return 0 if good else 1


def _answers(exported: Path, device: str) -> tuple[dict[tuple[str, str], np.ndarray], str]:
    """Every answer by model and name, and the device that the server says it really runs on."""
    answers = {}
    rows = np.random.default_rng(0).uniform(0, 16, (ROWS, 8, 8)).astype(np.float32)
    with serving(exported, "--device", device) as server, Client(server.address) as client:
        models = client.models()
        for model in {info.model.name for info in models}:
            scores = client.score(model, rows)
            answers[model, "embedding"] = client.embed(model, rows).values
            answers[model, "reconstruction"] = client.denoise(model, rows).values
            answers[model, "score"] = scores.score
            answers[model, "is_anomaly"] = scores.is_anomaly.astype(np.float32)
    (real,) = {info.device for info in models}
    return answers, real


if __name__ == "__main__":
    sys.exit(main())
