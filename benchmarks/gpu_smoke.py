"""`make gpu-smoke`: the server on a GPU gives the CPU's answers, and without a GPU it says so and ends.

With a GPU: train two small models, serve them with --device cpu and with --device cuda, compare the answers of the
three RPCs, in float32 and in float16. Without one: prove that --device cuda is refused with exit code 2 and one line.
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
from hourglass.contract import layout
from hourglass.contract.manifest import FLOAT16, FLOAT32, Precision
from service import devices
from service.start import StartError

ROWS = 600
VERDICT = "is_anomaly"

console = Console(width=100)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        exported = {precision: Path(folder) / precision for precision in (FLOAT32, FLOAT16)}
        _train(exported, Path(folder) / "runs")
        try:
            devices.choose("cuda")
        except StartError as error:
            return _refusal_is_clear(exported[FLOAT32], str(error))
        return max(_compare(root, precision) for precision, root in exported.items())


def _train(exported: dict[Precision, Path], runs: Path) -> None:
    """A table-like and a convolutional model, small: what they learn does not matter here."""
    for name, network in (("mlp", "mlp"), ("conv", "conv")):
        command = ["fit", "--data", "digits", "--name", name, "--network", network, "--epochs", "3"]
        _run(*command, "--exported", exported[FLOAT32], "--runs", runs)
        (run,) = (runs / name).iterdir()
        _run("export", "--run", run, "--exported", exported[FLOAT16], "--precision", FLOAT16)


def _run(*command: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "training", *map(str, command)], check=True)


def _refusal_is_clear(exported: Path, expected: str) -> int:
    command = [sys.executable, "-m", "service", "--exported", str(exported), "--device", "cuda"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = ended.stderr.splitlines()
    console.print(f"no GPU here; hourglass-serve --device cuda ended with exit code {ended.returncode}:")
    console.print("\n".join(lines), markup=False)
    clear = ended.returncode == 2 and lines == [f"hourglass-serve: error: {expected}"]
    console.print("as it should" if clear else "NOT as it should: exit code 2 and one line were expected")
    return 0 if clear else 1


def _compare(exported: Path, precision: Precision) -> int:
    """By what golden rows are allowed. That the server runs on CUDA at all means that it answered those so."""
    cpu, _ = _answers(exported, "cpu")
    cuda, device = _answers(exported, "cuda")
    table = Table(
        "model", "answer", "rows", "largest difference", "allowed", "within", title=f"{precision} on {device}"
    )
    good = device.startswith("cuda")
    for (model, answer), expected in cpu.items():
        difference = np.abs(cuda[model, answer] - expected)
        if answer == VERDICT:
            allowed, within = "0", not difference.any()
        else:
            tolerance = layout.read(exported, model, 1, ()).manifest.tolerance[answer]
            allowed = f"{tolerance.atol:.2g} + {tolerance.rtol:.2g} x"
            within = bool((difference <= tolerance.atol + tolerance.rtol * np.abs(expected)).all())
        good = good and within
        row = (model, answer, str(len(expected)), f"{difference.max():.2g}", allowed)
        table.add_row(*row, "yes" if within else "NO")
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
            answers[model, VERDICT] = scores.is_anomaly.astype(np.float32)
    (real,) = {info.device for info in models}
    return answers, real


if __name__ == "__main__":
    sys.exit(main())
