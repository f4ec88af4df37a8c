"""`make bench-repository`: start, memory and the cost of a look at the folder, by the number of models."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.machine import commit, processor
from benchmarks.serving.measuring import console
from benchmarks.serving.systems import hourglass
from service.scanning import scan

_COUNTS = (1, 250, 500, 1000)
_LOOKS = 20


def main() -> int:
    console.print(f"{processor()}, commit {commit()}")
    table = Table(title="models of a table 30-64-16", title_justify="left")
    for column in ("models", "start s", "resident MiB", "look ms"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="hourglass-bench-") as folder:
        model = _publish(Path(folder))
        for count in _COUNTS:
            exported = Path(folder) / str(count)
            for number in range(count):
                shutil.copytree(model, exported / f"model-{number}")
            with hourglass(exported) as server:
                resident = server.resident()
            looks = [_timed(exported) for _ in range(_LOOKS)]
            cells = f"{server.ready_seconds:.1f}", f"{resident / 2**20:.0f}", f"{1e3 * statistics.median(looks):.1f}"
            table.add_row(str(count), *cells)
    console.print(table)
    return 0


def _timed(exported: Path) -> float:
    began = time.perf_counter()
    scan(exported, 2, ())
    return time.perf_counter() - began


def _publish(folder: Path) -> Path:
    np.save(folder / "rows.npy", np.random.default_rng(0).random((1_000, 30), dtype=np.float32))
    command = [sys.executable, "-m", "training", "fit", "--data", str(folder / "rows.npy"), "--name", "table"]
    command += ["--variant", "basic", "--epochs", "1", "--hidden", "64", "--embedding-dim", "16"]
    command += ["--exported", str(folder / "one"), "--runs", str(folder / "runs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "one" / "table"


if __name__ == "__main__":
    sys.exit(main())
