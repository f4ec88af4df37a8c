"""`make bench-streaming`: a Parquet file larger than memory, scored by the program through a real server.

A model of 20 numbers and 4 categories is fitted on a few thousand rows; what it learns does not matter here. The file
holds as many generated rows as make 5 GB (`--gigabytes`), in row groups of 2^20 rows, the size that pyarrow writes; it
and the answers lie in a temporary folder. The bar is for the largest resident memory of `hourglass score --out`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, processor

MEMORY_BAR = 400  # MiB
_NUMBERS, _CATEGORIES = 20, 4
_KINDS = np.array([f"kind {i:03d}" for i in range(40)])
_ROW_GROUP = 2**20
_FITTED_ROWS = 5_000
# The program, and what the kernel says of its memory at the end. (What it says of a child counts its parent's as well.)
_PROGRAM = """
import sys
from pathlib import Path
from hourglass.cli import run
code = run(sys.argv[1:])
print(Path("/proc/self/status").read_text())
sys.exit(code)
"""


def main() -> int:
    """Returns 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    gigabytes = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory(prefix="hourglass-streaming-") as name:
        folder = Path(name)
        if (free := shutil.disk_usage(folder).free) < (gigabytes * 1.5 + 1) * 1e9:
            print(f"{folder}: {free / 1e9:.1f} GB free are too few", file=sys.stderr)
            return 1
        _fit(folder)
        rows = _write(folder / "rows.parquet", gigabytes * 1e9)
        with _serving(folder) as address:
            seconds, peak = _score(folder, address)
        written = pq.ParquetFile(folder / "scores.parquet").metadata.num_rows
        if written != rows:
            raise RuntimeError(f"{written} answers to {rows} rows")
        size = (folder / "rows.parquet").stat().st_size
    console = Console()
    table = Table("file", "rows", "seconds", "rows/s", "peak of the client", "bar", title="hourglass score --out")
    met = peak <= MEMORY_BAR
    table.add_row(
        f"{size / 1e9:.2f} GB",
        f"{rows:,}",
        f"{seconds:,.0f}",
        f"{rows / seconds:,.0f}",
        f"{peak:,.0f} MiB",
        f"<= {MEMORY_BAR} MiB: {'met' if met else 'missed'}",
    )
    console.print(table)
    console.print(f"{processor()}, {os.cpu_count()} cores, commit {commit()}; client and server on one machine")
    return int(not met)


def _rows(count: int, seed: int) -> pa.Table:
    """serial, n0 … n19 (float64) and c0 … c3 (texts), with a hole here and there."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {"serial": pa.array(np.arange(count)).cast(pa.string())}
    for i in range(_NUMBERS):
        columns[f"n{i}"] = pa.array(rng.standard_normal(count), mask=rng.random(count) < 0.01)
    for i in range(_CATEGORIES):
        columns[f"c{i}"] = pa.array(_KINDS[rng.integers(0, len(_KINDS), count)])
    return pa.table(columns)


def _fit(folder: Path) -> None:
    pq.write_table(_rows(_FITTED_ROWS, seed=0), folder / "fitted.parquet")
    command = [sys.executable, "-m", "training", "fit", "--data", str(folder / "fitted.parquet"), "--name", "wide"]
    flags = ["--id", "serial", "--epochs", "2", "--exported", str(folder / "exported"), "--runs", str(folder / "runs")]
    subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _write(path: Path, size: float) -> int:
    """Row groups until the file has the size: how many rows."""
    rows = 0
    with pq.ParquetWriter(path, _rows(1, seed=0).schema) as writer:
        while not path.exists() or path.stat().st_size < size:
            table = _rows(_ROW_GROUP, seed=1 + rows)
            writer.write_table(table, row_group_size=_ROW_GROUP)
            rows += len(table)
    return rows


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "service", "--exported", str(folder / "exported")]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
    with subprocess.Popen([*command, *ports], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            log = (json.loads(line) for line in server.stderr if line.startswith("{"))
            ready = next(entry for entry in log if entry["message"] == "ready")
            # What else it says must not fill the pipe.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield f"127.0.0.1:{ready['grpc_port']}"
        finally:
            server.terminate()


def _score(folder: Path, address: str) -> tuple[float, float]:
    """Seconds, and the largest resident memory of the program in MiB."""
    command = [sys.executable, "-c", _PROGRAM, "score", str(folder / "rows.parquet"), "--model", "wide"]
    out = ["--server", address, "--out", str(folder / "scores.parquet")]
    started = time.perf_counter()
    done = subprocess.run([*command, *out], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
