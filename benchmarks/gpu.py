"""`make bench-gpu`: every check and measurement of a GPU in one go, and a table of the bars last.

The engine in this process beside bare onnxruntime and beside what the bus can carry, the server beside an echo and
beside itself on the CPU, answers beside the CPU's, memory over a million rows, and how much several processes gain.
Writes benchmarks/results.json, and docs/performance.md from it. --device cpu runs all of it through the same seams
without a GPU, and writes nothing. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import uvloop
from rich.table import Table

from benchmarks import machine
from benchmarks.serving import models, page
from benchmarks.serving.__main__ import PACKAGES, PAGE, RESULTS
from benchmarks.serving.load import Measured, generator, grpc_load
from benchmarks.serving.measuring import Case, Contender, Ratio, console, ratio, show, turns
from benchmarks.serving.models import CONV, MLP, MODELS
from benchmarks.serving.systems import System, hourglass, python_echo
from hourglass.contract.layout import names, read, versions
from hourglass.contract.manifest import CLIPPED, INPUT, MODEL, RECONSTRUCTION_ERROR, SCORE
from service import devices
from service.arrivals import Arrivals
from service.batcher import Limits
from service.devices import CPU, CUDA, Device
from service.engine import LiveModel
from service.host import Host
from service.lanes import GREEDY, SLOTS, Memory
from service.loading import Loader
from service.metrics import Metrics
from service.proving import Opener
from service.session import Options, Session

ENGINE, BARE, BUS = "engine", "onnxruntime, bound and pinned", "copies over the bus alone"
_OUTPUTS = (SCORE, RECONSTRUCTION_ERROR, CLIPPED)
_BATCH, _CALL = 4096, 512
_TURNS = 5
_MILLION = 1_000_000
_NEVER = 2**30


@dataclass(frozen=True)
class Bench:
    """The engine on a device and, beside it, on the CPU. seconds: of each window."""

    device: Device
    exported: Path
    loop: asyncio.AbstractEventLoop
    seconds: float

    @property
    def memory(self) -> Callable[[], Memory]:
        if self.device.kind == CPU:
            return Host
        from service.cuda import Cuda

        return partial(Cuda, self.device.index)

    def models(self, opener: Opener, runners: int, greedy: int = _NEVER, folder: str = "all") -> dict[str, LiveModel]:
        """Every published model, in this process, by name."""
        limits = Limits(_BATCH, _NEVER, _NEVER, runners, greedy, serial=greedy < runners, inline_seconds=3e-4)
        root = self.exported / folder

        async def load() -> list[LiveModel]:
            loader = Loader(root, opener, Metrics(), limits, Arrivals(), drift_window_rows=0)
            return [await loader.load(name, versions(root, name)[0]) for name in names(root)]

        return {model.name: model for model in self.loop.run_until_complete(load())}

    def in_lanes(self, folder: str, **options: bool) -> dict[str, LiveModel]:
        opener = Opener(self.device, Options(**options), _BATCH, self.memory, instances=2, slots=SLOTS)
        return self.models(opener, SLOTS, GREEDY, folder)

    @cached_property
    def lanes(self) -> dict[str, LiveModel]:
        return self.in_lanes("all")

    @cached_property
    def plain(self) -> dict[str, LiveModel]:
        """On the device, as onnxruntime is usually called: from arrays to arrays."""
        return self.models(Opener(self.device, Options(), _BATCH), runners=1)

    @cached_property
    def cpu(self) -> dict[str, LiveModel]:
        return self.models(Opener(Device(CPU), Options(), _BATCH), runners=devices.available_cores())

    def rows_per_second(self, model: LiveModel, rows: np.ndarray, callers: int) -> float:
        """Score of the same rows by so many callers at once."""

        async def caller(end: float) -> int:
            done = 0
            while time.perf_counter() < end:
                await model.score(rows, None)
                done += len(rows)
            return done

        async def measured() -> float:
            began = time.perf_counter()
            done = await asyncio.gather(*(caller(began + self.seconds) for _ in range(callers)))
            return sum(done) / (time.perf_counter() - began)

        return self.loop.run_until_complete(measured())

    def load(self, system: System, requests: Sequence[bytes], **how: int) -> Measured:
        """Score over gRPC."""
        return grpc_load(
            system.address,
            "/hourglass.v1.Autoencoder/Score",
            requests,
            seconds=self.seconds,
            **how,
        )

    def latency(self, model: LiveModel, rows: np.ndarray) -> float:
        """Median of single calls, one after the other, in microseconds."""

        async def measured() -> list[float]:
            took = []
            end = time.perf_counter() + self.seconds
            while (began := time.perf_counter()) < end:
                await model.score(rows, None)
                took.append(time.perf_counter() - began)
            return took

        return statistics.median(self.loop.run_until_complete(measured())) * 1e6


def all_cases(bench: Bench) -> Iterator[Case]:
    yield _answers(bench)
    yield _batches(bench)
    yield _single_row(bench)
    yield _convolutions(bench)
    yield _memory(bench)
    yield _precisions(bench)
    yield _calls(bench)
    yield _served(bench)
    yield from _processes(bench)
    yield from _training(bench)


def _answers(bench: Bench) -> Case:
    """Of every model and output: the largest difference from the CPU's, as a share of what the manifest allows."""
    worst: dict[str, list[float]] = {}
    alike: dict[str, list[float]] = {}
    for model in MODELS:
        rows = model.rows(_BATCH)
        artefact = read(bench.exported / "all", model.name, 1, (MODEL,))
        manifest, outputs = artefact.manifest, artefact.manifest.graph_outputs(MODEL)
        expected = Session(artefact.files[MODEL], Device(CPU), Options()).run(rows, outputs)
        found = bench.lanes[model.name].lanes[MODEL].run(rows, outputs)
        for name in outputs:
            tolerance = manifest.tolerance[name]
            allowed = tolerance.atol + tolerance.rtol * np.abs(expected[name])
            worst[f"{model.title}: {name}"] = [float((np.abs(found[name] - expected[name]) / allowed).max())]
        threshold = np.median(expected[SCORE])  # where verdicts are hardest
        same = (found[SCORE] > threshold) == (expected[SCORE] > threshold)
        alike[model.title] = [float(same.mean())]
    ratios = (
        _one("FP32 answers: largest difference from the CPU's", "of the tolerance", worst, 1, at_most=True),
        _one("FP32 verdicts that the CPU gives too", "of all", alike, 1),
    )
    return Case("FP32 answers beside the CPU's", "share of the tolerance", worst, ratios)


def _one(title: str, of: str, values: Mapping[str, Sequence[float]], bar: float, *, at_most: bool = False) -> Ratio:
    """The worst of several numbers against a bar."""
    flat = [value for series in values.values() for value in series]
    return Ratio(title, of, "1", (max(flat) if at_most else min(flat),), bar, at_most)


def _batches(bench: Bench) -> Case:
    rows = MLP.rows(_BATCH)
    engine = bench.lanes[MLP.name]
    contenders: dict[str, Contender] = {
        ENGINE: lambda _turn: bench.rows_per_second(engine, rows, callers=2 * SLOTS),
        BARE: lambda _turn: _bare(bench, rows),
        BUS: lambda _turn: _bus(bench, rows),
    }
    case = turns(f"{MLP.title}, batches of {_BATCH} rows in this process", "rows/s", contenders, _TURNS)
    return replace(case, ratios=(ratio(case, ENGINE, BARE, 0.90), ratio(case, ENGINE, BUS, 0.60)))


def _precisions(bench: Bench) -> Case:
    """The same network with coarser products, once loaded and compared with its golden rows."""
    rows = MLP.rows(_BATCH)
    kinds = {
        "float32": bench.lanes[MLP.name],
        "TF32": bench.in_lanes("mlp", tf32=True)[MLP.name],
        "float16": bench.in_lanes("half")[MLP.name],
    }
    contenders: dict[str, Contender] = {
        name: lambda _turn, model=model: bench.rows_per_second(model, rows, 2 * SLOTS)  # type: ignore[misc]
        for name, model in kinds.items()
    }
    case = turns(f"{MLP.title}, batches of {_BATCH} rows in this process, by precision", "rows/s", contenders, 3)
    return replace(case, ratios=tuple(ratio(case, kind, "float32") for kind in ("TF32", "float16")))


def _calls(bench: Bench) -> Case:
    rows, model = MLP.rows(_CALL), bench.lanes[MLP.name]
    contenders: dict[str, Contender] = {
        f"{callers} callers": lambda _turn, callers=callers: bench.rows_per_second(model, rows, callers)  # type: ignore[misc]
        for callers in (1, 8, 64)
    }
    return turns(f"{MLP.title}, {_CALL} rows a call, in this process", "rows/s", contenders, 3)


def _bare(bench: Bench, rows: np.ndarray) -> float:
    """One batch after the other from a buffer that the device reads by itself; nobody copies rows into it."""
    with contextlib.closing(bench.memory()) as memory:
        stream = memory.stream()
        artefact = read(bench.exported / "all", MLP.name, 1, (MODEL,))
        session = Session(artefact.files[MODEL], bench.device, Options(), stream.address)
        shapes: dict[str, Sequence[int]] = {INPUT: rows.shape}
        shapes |= {name: (len(rows), *shape) for name, shape in artefact.manifest.output_shapes().items()}
        addresses = {name: memory.allocate(math.prod(shape) * 4) for name, shape in shapes.items()}
        pinned = memory.pinned(rows.shape)
        pinned[:] = rows
        answers = {name: memory.pinned(shapes[name]) for name in _OUTPUTS}
        run, done = session.bound(len(rows), addresses), memory.event(brief=True)

        def batch() -> None:
            stream.upload(addresses[INPUT], pinned)
            run()
            for name, answer in answers.items():
                stream.download(answer, addresses[name])
            stream.mark(done)
            done.wait()

        return len(rows) / _seconds(batch, bench.seconds)


def _bus(bench: Bench, rows: np.ndarray) -> float:
    with contextlib.closing(bench.memory()) as memory:
        stream, pinned, address = memory.stream(), memory.pinned(rows.shape), memory.allocate(rows.nbytes)
        pinned[:] = rows
        done = memory.event(brief=True)

        def copy() -> None:
            stream.upload(address, pinned)
            stream.mark(done)
            done.wait()

        return len(rows) / _seconds(copy, bench.seconds)


def _seconds(work: Callable[[], None], window: float) -> float:
    """Of one time, on average."""
    for _ in range(3):
        work()
    began, times = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < window:
        work()
        times += 1
    return took / times


def _single_row(bench: Bench) -> Case:
    row = MLP.rows(1)
    bound, plain = "recorded and bound", "as usual"
    contenders: dict[str, Contender] = {
        bound: lambda _turn: bench.latency(bench.lanes[MLP.name], row),
        plain: lambda _turn: bench.latency(bench.plain[MLP.name], row),
    }
    case = turns(f"{MLP.title}, one row, in this process", "µs, median", contenders, _TURNS)
    return replace(case, ratios=(ratio(case, bound, plain, 0.6, at_most=True),))


def _convolutions(bench: Bench) -> Case:
    rows = CONV.rows(1024)
    cores = devices.available_cores()
    gpu, cpu = f"lanes, {bench.device}", f"CPU, {cores} cores"
    contenders: dict[str, Contender] = {
        gpu: lambda _turn: bench.rows_per_second(bench.lanes[CONV.name], rows, callers=8),
        f"{cpu}": lambda _turn: bench.rows_per_second(
            bench.cpu[CONV.name], rows, callers=2 * devices.available_cores()
        ),
    }
    case = turns(f"{CONV.title}, 1,024 rows a call, in this process", "rows/s", contenders, 3)
    return replace(case, ratios=(ratio(case, gpu, cpu, 10),))


def _memory(bench: Bench) -> Case:
    """Before and after a million rows in calls of 1 to 4,096."""
    draws = np.random.default_rng(0)
    rows = MLP.rows(_BATCH)
    model = bench.lanes[MLP.name]
    used: dict[str, list[float]] = {"the GPU's, MiB": [], "this process's, MiB": []}

    def look() -> None:
        used["the GPU's, MiB"].append(bench.memory().used() / 2**20)
        used["this process's, MiB"].append(_resident() / 2**20)

    async def caller(count: int) -> None:
        while count > 0:
            some = int(2 ** draws.uniform(0, math.log2(_BATCH)))
            await model.score(rows[:some], None)
            count -= some

    async def ask(count: int) -> None:
        await asyncio.gather(*(caller(count // 16) for _ in range(16)))

    for count in (_MILLION // 10, _MILLION):
        bench.loop.run_until_complete(ask(count))
        look()
    grown = {what: [after / max(before, 1.0)] for what, (before, after) in used.items()}
    bar = _one("memory after a million rows of mixed calls", "over before", grown, 1.05, at_most=True)
    return Case("memory, before and after a million rows in calls of 1 to 4,096", "MiB", used, (bar,))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _served(bench: Bench) -> Case:
    request = MLP.request("Score", _CALL)

    def load(system: System) -> Measured:
        return bench.load(system, [request], concurrency=8, channels=8)

    with contextlib.ExitStack() as started:
        device = str(bench.device)
        gpu = started.enter_context(hourglass(bench.exported / "all", "--device", device))
        cpu = started.enter_context(hourglass(bench.exported / "all", "--device", CPU))
        echo = started.enter_context(python_echo(load(gpu).answer_bytes))
        systems = {device: gpu, "echo, grpc.aio": echo, "CPU alone": cpu}
        contenders: dict[str, Contender] = {
            name: lambda _turn, system=system: load(system).calls_per_second  # type: ignore[misc]
            for name, system in systems.items()
        }
        case = turns(f"Score over gRPC, {_CALL} rows a call, 8 callers", "calls/s", contenders, _TURNS)
    ours, beside, on_cpu = systems
    return replace(case, ratios=(ratio(case, ours, beside, 0.80), ratio(case, ours, on_cpu)))


def _processes(bench: Bench) -> Iterator[Case]:
    """How much several server processes gain, on one port and one GPU."""
    counts = (1, 2, 4)
    with contextlib.ExitStack() as started:
        systems = {
            f"{count} processes" if count > 1 else "1 process": started.enter_context(
                hourglass(bench.exported / "mlp", "--device", str(bench.device), "--processes", str(count))
            )
            for count in counts
        }
        one, *several = systems
        for rows, callers in ((1, 256), (_CALL, 16)):
            request = MLP.request("Score", rows)
            contenders: dict[str, Contender] = {
                name: lambda _turn, system=system, request=request, callers=callers: (
                    bench.load(  # type: ignore[misc]
                        system, [request], concurrency=callers, channels=min(callers, 64)
                    ).calls_per_second
                )
                for name, system in systems.items()
            }
            title = f"Score over gRPC, {rows} row{'s' * (rows > 1)} a call, {callers} callers, by processes on one port"
            case = turns(title, "calls/s", contenders, 3)
            yield replace(case, ratios=tuple(ratio(case, name, one) for name in several))


def _training(bench: Bench) -> Iterator[Case]:
    """benchmarks/training_gpu.py, in a process of its own: torch brings its CUDA along."""
    command = [sys.executable, "-m", "benchmarks.training_gpu", "--device", str(bench.device)]
    windows = ["--seconds", str(bench.seconds), *(["--rows", "3000"] if bench.device.kind == CPU else [])]
    done = subprocess.run([*command, *windows], stdout=subprocess.PIPE, text=True, check=False)
    measured = json.loads(next((line for line in done.stdout.splitlines() if line.startswith("{")), "{}"))
    for kind, speeds in measured.get("rows_per_second", {}).items():
        case = Case(f"training the {MLP.title}, batches of 256, {kind}", "rows/s", speeds)
        ours, bare, *others = speeds
        yield replace(case, ratios=(ratio(case, ours, bare, 0.90), *(ratio(case, ours, other) for other in others)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=CUDA, metavar="cuda[:N]|cpu")
    parser.add_argument("--exported", type=Path, metavar="DIR", help="what benchmarks.serving.models.publish made")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each window [1]")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    device, _ = devices.choose(arguments.device)
    with tempfile.TemporaryDirectory(prefix="hourglass-bench-") as folder:
        exported = arguments.exported or models.publish(Path(folder))["all"].parent
        loop = uvloop.new_event_loop()
        measured = []
        for case in all_cases(Bench(device, exported, loop, arguments.seconds)):
            show(case)
            console.print()
            measured.append(case)
    if device.kind == CUDA:
        _write(device, measured)
    console.print(_bars(measured))
    return int(any(one.met is False for case in measured for one in case.ratios))


def _write(device: Device, measured: Sequence[Case]) -> None:
    record = {
        "machine": f"{machine.gpu(device.index)}; {machine.processor()}",
        "cores": devices.available_cores(),
        "python": sys.version.split()[0],
        "versions": machine.versions(PACKAGES),
        "commit": machine.commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "generator": generator(),
        "configurations": {},
        "cases": [case.record() for case in measured],
    }
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, "gpu": record}, indent=1, ensure_ascii=False) + "\n")
    page.write(RESULTS, PAGE)


def _bars(measured: Sequence[Case]) -> Table:
    table = Table("", "measured", "spread", "bar", "", title="bars")
    for case in measured:
        for one in case.ratios:
            what = f"{one.title}: {one.of}" + ("" if one.over == "1" else f" / {one.over}")
            bar = "" if one.bar is None else f"{'≤' if one.at_most else '≥'} {one.bar:g}"
            said = {None: "", True: "reached", False: "MISSED"}[one.met]
            spread = f"{min(one.values):.3g} – {max(one.values):.3g}" if len(one.values) > 1 else ""
            table.add_row(what, f"{one.median:.3g}", spread, bar, said)
    return table


if __name__ == "__main__":
    sys.exit(main())
