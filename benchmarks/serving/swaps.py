"""`make bench-swaps`: versions of a model of tens of MB change places under load, as fast as the server follows.

Callers ask for single rows, one after the other, and check each answer against those of the version that it names.
The 99th percentile during the changes is compared with that of the same load before and after them; resident memory
with that after the first tenth. Bars: no failed call, no mixed answer, twice the undisturbed p99, 5 % of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from benchmarks.machine import commit, processor
from benchmarks.serving.measuring import console
from benchmarks.serving.systems import System, hourglass
from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc

P99_BAR, MEMORY_BAR = 2.0, 0.05
_NAME, _WIDTH = "big", 784
_HIDDEN = "2048,1024"
_UNDISTURBED_SECONDS = 8.0
_FREED_SECONDS = 5.0
# A connection that reaches its age loses a call now and then where retries are off, as here: that is not the swaps'.
_FLAGS = ("--poll-seconds", "0.1", "--versions", "latest:1", "--max-connection-age-seconds", "3600")


@dataclass
class Load:
    """Callers of one connection, each asking again as soon as it is answered."""

    address: str
    rows: np.ndarray
    answers: dict[int, np.ndarray]
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    version: int = 0

    async def run(self, callers: int) -> None:
        """Until cancelled."""
        async with grpc.aio.insecure_channel(self.address, [("grpc.enable_retries", 0)]) as channel:
            stub = autoencoder_pb2_grpc.AutoencoderStub(channel)
            await asyncio.gather(*(self._ask(stub, i % len(self.rows)) for i in range(callers)))

    async def _ask(self, stub: autoencoder_pb2_grpc.AutoencoderStub, row: int) -> None:
        request = score_request(self.rows[row : row + 1])
        while True:
            began = time.perf_counter()
            try:
                answer = await stub.Score(request)
            except grpc.RpcError as error:
                self.failures[f"{error.code().name}: {error.details()}"] += 1
                continue
            self.seconds.append(time.perf_counter() - began)
            self.version = answer.model.version
            expected = self.answers[self.version][row]
            self.mixed += abs(np.frombuffer(answer.score.data, "<f4")[0] - expected) > 1e-4 * expected

    async def wait_version(self, version: int) -> None:
        while self.version != version:
            await asyncio.sleep(0.005)

    def p99(self, start: int) -> float:
        return float(np.percentile(self.seconds[start:], 99))


def score_request(rows: np.ndarray) -> pb.ScoreRequest:
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=rows.shape, data=rows.tobytes())
    return pb.ScoreRequest(model=_NAME, tensor=tensor)


def main() -> int:
    """Returns 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--callers", type=int, default=8)
    arguments = parser.parse_args()
    console.print(f"{processor()}, commit {commit()}")
    with tempfile.TemporaryDirectory(prefix="hourglass-bench-") as folder:
        exported, aside, answers, rows = _publish(Path(folder))
        with hourglass(exported, *_FLAGS) as server:
            return asyncio.run(_measure(server, Load(server.address, rows, answers), exported, aside, arguments))


async def _measure(server: System, load: Load, exported: Path, aside: Path, arguments: argparse.Namespace) -> int:
    running = asyncio.create_task(load.run(arguments.callers))
    await load.wait_version(1)
    undisturbed = [await _undisturbed(load)]
    ready = server.resident()
    start, began = len(load.seconds), time.perf_counter()
    early = 0
    for swap in range(arguments.swaps):
        _swap(exported, aside)
        await load.wait_version(1 if swap % 2 else 2)
        if swap + 1 == max(2, arguments.swaps // 10):
            early = await _resident(server)
    disturbed, took, calls = load.p99(start), time.perf_counter() - began, len(load.seconds) - start
    worst = max(load.seconds[start:])
    late = await _resident(server)
    undisturbed.append(await _undisturbed(load))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ratio, growth = disturbed / np.mean(undisturbed), late / early - 1
    console.print(f"{arguments.swaps} swaps in {took:.0f} s under {arguments.callers} callers, {calls} calls")
    failed = load.failures.total()
    console.print(f"failed calls {failed}; answers that mix versions {load.mixed}; bars 0")
    for why, count in load.failures.most_common(3):
        console.print(f"  {count} × {why}", markup=False)
    before, after = (f"{1e3 * p99:.2f}" for p99 in undisturbed)
    console.print(
        f"p99 ms: undisturbed {before} before, {after} after; during swaps {1e3 * disturbed:.2f}, worst "
        f"{1e3 * worst:.1f}; ratio {ratio:.2f}, bar ≤ {P99_BAR:g}"
    )
    console.print(
        f"resident MiB: ready {ready / 2**20:.0f}, after a tenth {early / 2**20:.0f}, at the end {late / 2**20:.0f}: "
        f"{growth:+.1%}, bar ± {MEMORY_BAR:.0%}"
    )
    return int(bool(failed or load.mixed) or ratio > P99_BAR or abs(growth) > MEMORY_BAR)


async def _resident(server: System) -> int:
    """With what has just left being freed: the least of some seconds, in which nothing changes places."""
    seen = []
    for _ in range(10):
        await asyncio.sleep(_FREED_SECONDS / 10)
        seen.append(server.resident())
    return min(seen)


async def _undisturbed(load: Load) -> float:
    start = len(load.seconds)
    await asyncio.sleep(_UNDISTURBED_SECONDS)
    return load.p99(start)


def _swap(exported: Path, aside: Path) -> None:
    """Version 2 comes, or goes."""
    if aside.exists():
        aside.rename(exported / _NAME / "2")
    else:
        (exported / _NAME / "2").rename(aside)


def _publish(folder: Path) -> tuple[Path, Path, dict[int, np.ndarray], np.ndarray]:
    """The folder of models with version 1, version 2 beside it, and what each answers to which rows."""
    exported, aside = folder / "exported", folder / "2"
    rows = np.random.default_rng(0).random((1_000, _WIDTH), dtype=np.float32)
    np.save(folder / "rows.npy", rows)
    rows = rows[:16]
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "training", "fit", "--data", str(folder / "rows.npy"), "--name", _NAME]
        command += ["--variant", "basic", "--score", "mean_squared_error", "--epochs", "1", "--seed", seed]
        command += ["--hidden", _HIDDEN, "--embedding-dim", "32", "--exported", str(exported)]
        subprocess.run([*command, "--runs", str(folder / "runs")], check=True, stdout=subprocess.DEVNULL)
    answers = {}
    with _stub(exported) as stub:
        for version in (1, 2):
            request = score_request(rows)
            request.version = version
            answers[version] = np.frombuffer(stub.Score(request).score.data, "<f4")
    (exported / _NAME / "2").rename(aside)
    return exported, aside, answers, rows


@contextmanager
def _stub(exported: Path) -> Iterator[autoencoder_pb2_grpc.AutoencoderStub]:
    with hourglass(exported) as server, grpc.insecure_channel(server.address) as channel:
        yield autoencoder_pb2_grpc.AutoencoderStub(channel)


if __name__ == "__main__":
    sys.exit(main())
