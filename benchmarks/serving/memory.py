"""`make bench-memory`: what the process keeps after requests of all sizes, and what the runtime's arena is worth.

Requests of 1 to 1,024 rows in an order drawn once, 4 at a time, after one round of all sizes: resident memory at the
start and after each fifth. The bar is for the growth from the first fifth to the last. The arena, onnxruntime's own
cache of memory, is then switched on for comparison: it is off in the server.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.machine import commit, processor
from benchmarks.serving import models
from benchmarks.serving.load import grpc_load
from benchmarks.serving.measuring import console
from benchmarks.serving.models import CONV, MLP, TABLE, Model
from benchmarks.serving.systems import System, hourglass

GROWTH_BAR = 0.05
_PARTS = 5
_SECONDS = 6.0
_SIZES = (1, 2, 5, 17, 64, 100, 256, 300, 511, 512, 777, 1024)
_ARENA = "benchmarks.serving.with_arena"


def main() -> int:
    """Returns 1 when the bar is missed."""
    console.print(f"{processor()}, commit {commit()}")
    table = Table(title="resident memory under mixed sizes, MiB; calls/s, 4 callers", title_justify="left")
    for column in (
        "model",
        "arena",
        "ready",
        *(f"{100 * (i + 1) // _PARTS} %" for i in range(_PARTS)),
        "growth",
        "calls/s",
    ):
        table.add_column(column, justify="left" if column in ("model", "arena") else "right")
    missed = False
    with tempfile.TemporaryDirectory(prefix="hourglass-bench-") as folder:
        exported = models.publish(Path(folder))["all"]
        for model in (MLP, TABLE, CONV):
            for arena, program in (("off", "service"), ("on", _ARENA)):
                with hourglass(exported, program=program) as server:
                    ready = server.resident()
                    resident, speeds = _mixed(server, model)
                growth = resident[-1] / resident[0] - 1
                missed |= arena == "off" and growth > GROWTH_BAR
                cells = [f"{value / 2**20:.0f}" for value in (ready, *resident)]
                table.add_row(model.title, arena, *cells, f"{growth:+.1%}", f"{statistics.median(speeds):.0f}")
    console.print(table)
    console.print(f"bar: growth ≤ {GROWTH_BAR:.0%} without the arena: {'missed' if missed else 'met'}")
    return int(missed)


def _mixed(server: System, model: Model) -> tuple[Sequence[int], Sequence[float]]:
    most = 200 if model is CONV else 1024  # 1,024 images are more than a message may have
    requests = [model.request("Denoise", min(rows, most)) for rows in _SIZES]
    grpc_load(server.address, "/hourglass.v1.Autoencoder/Denoise", requests, concurrency=4, seconds=_SECONDS)
    order = random.Random(0)
    resident, speeds = [], []
    for _ in range(_PARTS):
        order.shuffle(requests)
        path = "/hourglass.v1.Autoencoder/Denoise"
        speeds.append(grpc_load(server.address, path, requests, concurrency=4, seconds=_SECONDS).calls_per_second)
        resident.append(server.resident())
    return resident, speeds


if __name__ == "__main__":
    sys.exit(main())
