"""How much of a bare torch loop's speed is left when everything a real fit needs is around it.

The bare loop does forward, backward and step on tensors in memory, nothing else. Ours is what `fit` runs on the same
tensor: shuffling, early-stop evaluation, records, progress, checkpoints. With --peers, pythae's trainer and PyOD's
AutoEncoder train the same dense network on the same rows in the same batches, each in an environment of its own; their
loops are timed alone. All take turns, and a bar is for the median of the ratios of the turns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, processor, versions
from benchmarks.peers import REQUIREMENTS, Peer
from service.devices import available_cores
from training import data
from training.config import FitConfig
from training.data import Dataset
from training.fit import build, train
from training.progress import Progress
from training.run import Run
from training.scaling import Scaling

import torch  # isort: skip  (training sets how OpenMP waits, before torch is loaded)
from torch import Tensor  # isort: skip

_SCHEDULE = {"batch_size": 256, "learning_rate": 1e-3}
BARE_BAR = 0.90
PEER_BAR = 3.0
BARE = "bare torch loop"
OURS = "hourglass-train"
MNIST = Path("mnist/train-images-idx3-ubyte.gz")
TABLE = Path("adbench/23_mammography.npz")


@dataclass(frozen=True)
class Recipe:
    """What is trained; rows: how many of the file are used; bar: of the bare loop's speed, None when it has none."""

    title: str
    file: Path
    rows: int
    settings: Mapping[str, object]
    bar: float | None

    @property
    def peers(self) -> bool:
        return self.settings["network"] == "mlp"


RECIPES = (
    Recipe("MNIST, MLP", MNIST, 60_000, {"network": "mlp", "hidden": (512, 256), "embedding_dim": 32}, BARE_BAR),
    Recipe("MNIST, conv", MNIST, 12_000, {"network": "conv", "hidden": (32, 64), "embedding_dim": 32}, BARE_BAR),
    # A network so small that all loops pay for their Python; no bar against the bare one.
    Recipe("a table", TABLE, 11_183, {"network": "mlp", "hidden": (16,), "embedding_dim": 1, "epochs": 10}, None),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.training", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("HOURGLASS_DATA"), help="folder with mnist/, adbench/"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="against pythae and PyOD too; installs them once")
    parsed = parser.parse_args(arguments)
    installed = ", ".join(" ".join(item) for item in versions(("torch", "numpy")).items())
    Console(width=100).print(f"{processor()}, {available_cores()} cores, {installed}, commit {commit()}")
    return max([_compare(recipe, parsed.data, parsed.repetitions, parsed.peers) for recipe in RECIPES])


def _compare(recipe: Recipe, folder: Path | None, repetitions: int, peers: bool) -> int:
    """Prints a table; returns 1 when a bar is missed."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        source = str(folder / recipe.file) if folder else "generated"
        # The plain variant: the bare loop damages no rows either.
        shared = {
            "data": source,
            "name": "benchmark",
            "variant": "basic",
            "runs": temporary,
            "device": "cpu",
            "batch_size": 256,
            "epochs": 2,
        }
        config = FitConfig.model_validate({**shared, **_SCHEDULE, **recipe.settings})
        dataset = data.load(config) if folder else _generated(recipe)
        dataset = Dataset(dataset.source, dataset.rows[: recipe.rows], dataset.schema, dataset.sha256)
        splits = data.split(dataset, config.seed)
        scaling = Scaling.of(splits.train)
        rows, early_stop = scaling(splits.train), scaling(splits.early_stop)
        loops: dict[str, Callable[[], float]] = {
            BARE: lambda: _bare(config, rows),
            OURS: lambda: _ours(config, dataset, rows, early_stop),
        }
        if peers and recipe.peers:
            file = Path(temporary, "rows.npy")
            np.save(file, rows.numpy())
            settings = config.model_dump(include={"hidden", "embedding_dim", "batch_size", "epochs"})
            for name in REQUIREMENTS:
                peer = stack.enter_context(Peer(name, "peer_worker.py", name, file, json.dumps(settings)))
                loops[name] = partial(_peer, peer)
        for loop in loops.values():
            loop()  # the first steps of a process are slow
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(repetitions):
            for name, loop in loops.items():
                speeds[name].append(loop())
    return _report(recipe, dataset.source, speeds)


def _generated(recipe: Recipe) -> Dataset:
    shape = (28, 28) if recipe.file == MNIST else (6,)
    rows = np.random.default_rng(0).integers(0, 256, (recipe.rows, *shape)).astype(np.float32)
    return Dataset("generated", torch.from_numpy(rows), None, "0" * 64)


def _bare(config: FitConfig, rows: Tensor) -> float:
    """Rows per second."""
    model = build(config, tuple(rows.shape[1:]))
    optimizer = torch.optim.Adam(model.parameters(), lr=_SCHEDULE["learning_rate"], fused=True)
    assert config.epochs is not None
    assert config.batch_size is not None
    batches = torch.split(rows, config.batch_size)
    started = time.perf_counter()
    for _ in range(config.epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss = (model.decoder(model.encoder(batch)) - batch).square().sum() / len(batch)
            loss.backward()
            optimizer.step()
    return config.epochs * len(rows) / (time.perf_counter() - started)


def _ours(config: FitConfig, dataset: Dataset, rows: Tensor, early_stop: Tensor) -> float:
    """Rows per second."""
    run = Run.create(config, dataset)
    assert config.epochs is not None
    started = time.perf_counter()
    train(run, rows, early_stop, Progress(Console(file=io.StringIO())))
    return config.epochs * len(rows) / (time.perf_counter() - started)


def _peer(peer: Peer) -> float:
    """Rows per second."""
    return float(peer.ask())


def _report(recipe: Recipe, source: str, speeds: Mapping[str, list[float]]) -> int:
    table = Table(title=f"{recipe.title}: {source}")
    for column in ("loop", "rows/s, median", "spread", "ours is", "spread", "bar"):
        table.add_column(column, no_wrap=True)
    missed = False
    for name, values in speeds.items():
        speed = f"{statistics.median(values):,.0f}", f"{min(values):,.0f} – {max(values):,.0f}"
        if name == OURS:
            table.add_row(name, *speed)
            continue
        ratios = [one / other for one, other in zip(speeds[OURS], values, strict=True)]
        ratio, bar = statistics.median(ratios), recipe.bar if name == BARE else PEER_BAR
        missed |= bar is not None and ratio < bar
        spread = f"{min(ratios):.2f} – {max(ratios):.2f}"
        table.add_row(name, *speed, f"{ratio:.2f} ×", spread, "" if bar is None else f"{bar:.2f} ×")
    Console(width=100).print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
