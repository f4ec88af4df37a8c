"""How much of a bare torch loop's speed is left when everything a real fit needs is around it.

Both train the 784-512-256-32-256-512-784 network in batches of 256 on the same tensor: MNIST's training split. The
bare loop does forward, backward and step, nothing else. Ours is what `fit` runs on that tensor: shuffling, early-stop
evaluation, records, progress, checkpoints. The two take turns in one process, and the bar, 0.85, is for the median of
the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from training import data
from training.config import FitConfig
from training.data import Dataset
from training.fit import build, train
from training.progress import Progress
from training.run import Run
from training.scaling import Scaling

BAR = 0.85
MNIST = "mnist/train-images-idx3-ubyte.gz"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.training", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HOURGLASS_DATA"), help="folder with mnist/")
    parser.add_argument("--epochs", type=int, default=2, help="of one repetition")
    parser.add_argument("--repetitions", type=int, default=12)
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config = FitConfig(
            data=str(Path(parsed.data) / MNIST) if parsed.data else "generated",
            name="benchmark",
            variant="basic",  # the bare loop damages no rows either
            runs=Path(folder),
            epochs=parsed.epochs,
            hidden=(512, 256),
            embedding_dim=32,
            batch_size=256,
        )
        dataset = data.load(config) if parsed.data else _generated()
        splits = data.split(dataset, config.seed)
        scaling = Scaling.of(splits.train)
        rows, early_stop = scaling(splits.train), scaling(splits.early_stop)
        bare, ours = [], []
        _bare(config, rows, epochs=1)  # the first steps of a process are slow
        for _ in range(parsed.repetitions):
            bare.append(_bare(config, rows, config.epochs))
            ours.append(_ours(config, dataset, rows, early_stop))
    return _report(dataset.source, bare, ours)


def _generated() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28)).astype(np.float32)
    return Dataset("generated", torch.from_numpy(images), None, "0" * 64)


def _bare(config: FitConfig, rows: Tensor, epochs: int) -> float:
    """Rows per second."""
    model = build(config, tuple(rows.shape[1:]))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches = torch.split(rows, config.batch_size)
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss = (model.decoder(model.encoder(batch)) - batch).square().sum() / len(batch)
            loss.backward()
            optimizer.step()
    return epochs * len(rows) / (time.perf_counter() - started)


def _ours(config: FitConfig, dataset: Dataset, rows: Tensor, early_stop: Tensor) -> float:
    """Rows per second."""
    run = Run.create(config, dataset)
    started = time.perf_counter()
    train(run, rows, early_stop, Progress(Console(file=io.StringIO())))
    return config.epochs * len(rows) / (time.perf_counter() - started)


def _report(source: str, bare: list[float], ours: list[float]) -> int:
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    table = Table("loop", "rows/s, median", "spread", title=f"Training an MLP on {source}")
    table.add_row("bare torch", f"{statistics.median(bare):,.0f}", f"{min(bare):,.0f} – {max(bare):,.0f}")
    table.add_row("hourglass-train", f"{statistics.median(ours):,.0f}", f"{min(ours):,.0f} – {max(ours):,.0f}")
    ratio = statistics.median(ratios)
    table.add_row(f"ratio (bar {BAR})", f"{ratio:.3f}", f"{min(ratios):.3f} – {max(ratios):.3f}")
    Console().print(table)
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
