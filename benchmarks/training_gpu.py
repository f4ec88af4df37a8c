"""What hourglass-train's loop leaves of a bare one on a GPU: MNIST's 784-512-256-32 network and its mirror.

Ours is the real Training: shuffling, early-stop evaluation, records, the best weights kept. The bare loops have the
rows on the device already and go through them in order, with the same batches, fused AdamW, precision and compiler; one
asks for every kernel, one replays its step as a CUDA graph. The last one is what people write first: an eager
DataLoader loop. Loops take turns in windows of a second or so; the bar is for the median of the ratios of the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from rich.console import Console
from rich.table import Table

from benchmarks.machine import processor
from benchmarks.training import BARE_BAR, MNIST, OURS
from training import compilation, mixed_precision
from training.config import FitConfig
from training.data import Dataset, load, split
from training.devices import chosen
from training.fit import build
from training.scaling import Scaling
from training.trainer import EpochRecord, Training

import torch  # isort: skip  (training sets how OpenMP waits, before torch is loaded)
from torch import Tensor  # isort: skip
from torch.utils.data import DataLoader, TensorDataset  # isort: skip

BARE, GRAPH, LOADER = "bare, eager", "bare, CUDA graph", "DataLoader, eager"
_BATCH, _RATE = 256, 1e-3
_SETTINGS = {"hidden": (512, 256), "embedding_dim": 32, "batch_size": _BATCH, "learning_rate": _RATE}
_PRECISIONS: tuple[tuple[str, bool], ...] = (("float32", False), ("bf16", False), ("bf16", True))
_WARM_UP = 5
_ROWS = 60_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.training_gpu", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HOURGLASS_DATA"), help="folder with mnist/")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one loop's window")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--device", default="cuda")
    parsed = parser.parse_args(arguments)
    device = chosen(parsed.device)
    rows, early_stop, source = _rows(parsed.data, parsed.rows)
    found = []
    for kind, compiled in _PRECISIONS:
        config = FitConfig.model_validate(
            {
                **_SETTINGS,
                "data": "x",
                "name": "x",
                "variant": "basic",
                "device": str(device),
                "epochs": 1_000_000,
                "patience": 1_000_000,
                "precision": kind,
                "compile": compiled,
            }
        )
        with mixed_precision.products(config.precision, device), compilation.explained(compiled):
            speeds = _compared(config, device, rows, early_stop, parsed.seconds, parsed.turns)
        found.append((f"{kind}, compiled" if compiled else kind, speeds))
    return _report(found, device, source)


def _rows(folder: Path | None, count: int) -> tuple[Tensor, Tensor, str]:
    """Scaled, to train on and to stop by."""
    if folder is None:
        drawn = torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(0))
        dataset, source = Dataset("random", drawn, None, "0" * 64), "random rows"
    else:
        dataset = load(FitConfig(data=str(folder / MNIST), name="x"))
        dataset, source = Dataset(dataset.source, dataset.rows[:count], dataset.schema, dataset.sha256), "MNIST"
    splits = split(dataset, 0)
    scaling = Scaling.of(splits.train)
    return scaling(splits.train), scaling(splits.early_stop), source


def _compared(
    config: FitConfig, device: torch.device, rows: Tensor, early_stop: Tensor, seconds: float, turns: int
) -> dict[str, list[float]]:
    """Rows per second in each turn."""
    resident = rows.to(device)
    loops: dict[str, Generator[int, None, None]] = {
        OURS: _ours(config, rows, early_stop),
        BARE: _bare(config, device, resident),
    }
    if device.type == "cuda":
        loops[GRAPH] = _graph(config, device, resident)
    loops[LOADER] = _loader(config, device, rows)
    for loop in loops.values():
        next(loop)  # builds, and warms up
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                done += next(loop)
            speeds[name].append(done / (time.perf_counter() - started))
    for loop in loops.values():
        loop.close()
    return speeds


class _Enough(Exception):
    """Ends a Training between two epochs."""


def _ours(config: FitConfig, rows: Tensor, early_stop: Tensor) -> Generator[int, None, None]:
    """The rows of each epoch of one Training, which waits in a thread of its own until it is asked for the next."""
    asked: SimpleQueue[bool] = SimpleQueue()
    ended: SimpleQueue[int | BaseException] = SimpleQueue()

    def after_epoch(_record: EpochRecord) -> None:
        ended.put(len(rows))
        if not asked.get():
            raise _Enough

    def train() -> None:
        try:
            Training(lambda: build(config, tuple(rows.shape[1:])), config).run(rows, early_stop, after_epoch)
        except _Enough:
            return
        except BaseException as error:
            ended.put(error)

    thread = Thread(target=train, daemon=True)
    thread.start()
    try:
        while True:
            done = ended.get()
            if isinstance(done, BaseException):
                raise done
            yield done
            asked.put(True)
    finally:
        asked.put(False)
        thread.join()


class _Bare:
    """Networks as ours, and a step that does what it must: no shuffling, no schedule, no record."""

    def __init__(self, config: FitConfig, device: torch.device, row_shape: tuple[int, ...]) -> None:
        model = build(config, row_shape).to(device)
        for network in model.trained_networks():
            mixed_precision.mix(network, config.precision, device)
            if config.compile:
                compilation.compiled(network)
        self.encoder, self.decoder = model.encoder, model.decoder
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, fused=True)

    def step(self, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = (self.decoder(self.encoder(batch)) - batch).square().sum() / len(batch)
        loss.backward()
        self.optimizer.step()


def _bare(config: FitConfig, device: torch.device, rows: Tensor) -> Generator[int, None, None]:
    bare, batches = _Bare(config, device, tuple(rows.shape[1:])), _full(rows)
    while True:
        for batch in batches:
            bare.step(batch)
        _wait(device)
        yield _BATCH * len(batches)


def _graph(config: FitConfig, device: torch.device, rows: Tensor) -> Generator[int, None, None]:
    bare, batches = _Bare(config, device, tuple(rows.shape[1:])), _full(rows)
    held, graph, aside = batches[0].clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            bare.step(held)
    torch.cuda.current_stream().wait_stream(aside)
    bare.optimizer.param_groups[0]["capturable"] = True
    with torch.cuda.graph(graph):
        bare.step(held)
    while True:
        for batch in batches:
            held.copy_(batch)
            graph.replay()
        _wait(device)
        yield _BATCH * len(batches)


def _loader(config: FitConfig, device: torch.device, rows: Tensor) -> Generator[int, None, None]:
    """Eager whatever the others do."""
    plain = config.model_copy(update={"compile": False})
    bare, gpu = _Bare(plain, device, tuple(rows.shape[1:])), device.type == "cuda"
    loader = DataLoader(TensorDataset(rows), _BATCH, shuffle=True, pin_memory=gpu)
    while True:
        for (batch,) in loader:
            bare.step(batch.to(device, non_blocking=True))
        _wait(device)
        yield len(rows)


def _full(rows: Tensor) -> list[Tensor]:
    return list(torch.split(rows[: len(rows) // _BATCH * _BATCH], _BATCH))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _report(found: Sequence[tuple[str, Mapping[str, list[float]]]], device: torch.device, source: str) -> int:
    """One line of JSON, then a table; returns 1 when a bar is missed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(json.dumps({"device": name, "torch": torch.__version__, "data": source, "rows_per_second": dict(found)}))
    table = Table(
        title=f"{source}, 784-512-256-32 and back, batches of {_BATCH}; {name}, torch {torch.__version__}",
        caption=f"medians, spreads beside them; the bar is {BARE_BAR:.2f} of {BARE}",
    )
    for column in ("products", "loop", "1,000 rows/s", "", "ours is", ""):
        table.add_column(column, no_wrap=True)
    missed = False
    for kind, speeds in found:
        for loop, values in speeds.items():
            thousands = [value / 1000 for value in values]
            spread = f"{min(thousands):,.0f} – {max(thousands):,.0f}"
            speed = f"{statistics.median(thousands):,.0f}", spread
            if loop == OURS:
                table.add_row(kind, loop, *speed)
                continue
            ratios = [ours / other for ours, other in zip(speeds[OURS], values, strict=True)]
            ratio = statistics.median(ratios)
            missed |= loop == BARE and ratio < BARE_BAR
            table.add_row("", loop, *speed, f"{ratio:.2f} ×", f"{min(ratios):.2f} – {max(ratios):.2f}")
        table.add_section()
    Console(width=100).print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
