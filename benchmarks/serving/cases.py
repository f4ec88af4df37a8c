"""What is asked of the server, beside what the wire and the runtime can: each bar is a ratio within one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.serving.load import Measured, grpc_load
from benchmarks.serving.measuring import Case, Contender, Ratio, ratio, turns
from benchmarks.serving.models import CONV, COPIES, MLP, MODELS, TABLE, Model
from benchmarks.serving.one_client import rows_per_second
from benchmarks.serving.systems import Runtime, System, cpp_echo, hourglass, python_echo, runtime
from hourglass.contract.manifest import CLIPPED, RECONSTRUCTION_ERROR, SCORE

OURS, ECHO, CPP_ECHO, RUNTIME = "hourglass-serve", "echo, grpc.aio", "echo, C++", "onnxruntime alone"
OPEN, OPEN_METHOD = "hourglass-serve, ModelInfer", "/inference.GRPCInferenceService/ModelInfer"
ENOUGH, FEW = 5, 3
CORES = 2  # the machine that the bars are for
_CALLERS = 256


@dataclass(frozen=True)
class Bench:
    """seconds: of each window. exported: folders of models, by name."""

    exported: Mapping[str, Path]
    server: System
    runtime: Runtime
    seconds: float = 2.0

    def load(self, system: System, method: str, *requests: bytes, **how: float) -> Measured:
        path = f"/hourglass.v1.Autoencoder/{method}"
        return grpc_load(system.address, path, requests, **{"seconds": self.seconds, **how})  # type: ignore[arg-type]

    def bare(self, model: Model, rows: int, callers: int) -> Mapping[str, float]:
        file = self.exported["all"] / model.name / "1" / "model.onnx"
        outputs = (SCORE, RECONSTRUCTION_ERROR, CLIPPED)
        return self.runtime.ask(file, (rows, *model.shape), outputs, callers, self.seconds / 2)


def all_cases(exported: Mapping[str, Path]) -> Iterator[Case]:
    with hourglass(exported["all"]) as server, runtime() as bare:
        bench = Bench(exported, server, bare)
        yield from _single_rows(bench)
        yield from _many_rows(bench)
        yield from _open_protocol(bench)
        yield _open_loop(bench)
        yield _one_client(bench)
        yield _all_cores(bench)
    yield _mixed(bench)
    yield _observing(bench)
    yield from _delay(bench)
    yield _start(bench)


def callers(concurrency: int) -> str:
    return "1 caller" if concurrency == 1 else f"{concurrency} callers"


def calls(bench: Bench, system: System, method: str, request: bytes, **how: float) -> Contender:
    return lambda _turn: bench.load(system, method, request, **how).calls_per_second


def _latency(bench: Bench, system: System, request: bytes, **how: float) -> Contender:
    return lambda _turn: bench.load(system, "Score", request, **how).p50


def _single_rows(bench: Bench) -> Iterator[Case]:
    for model, concurrencies in ((MLP, (1, 8, 64, 256)), (TABLE, (64,)), (CONV, (64,))):
        request = model.request("Score", 1)
        answer = bench.load(bench.server, "Score", request, seconds=0.2).answer_bytes
        with python_echo(answer) as echo, cpp_echo(answer) as quick:
            for concurrency in concurrencies:
                title = f"Score, single rows, {model.title}, {callers(concurrency)}"
                if concurrency == 1:
                    yield _lone_caller(bench, echo, model, title)
                    continue
                systems = {OURS: bench.server, ECHO: echo, **({CPP_ECHO: quick} if quick else {})}
                contenders = {
                    name: calls(bench, system, "Score", request, concurrency=concurrency)
                    for name, system in systems.items()
                }
                barred = model is MLP and concurrency == 64
                case = turns(title, "calls/s", contenders, ENOUGH if barred else FEW)
                yield replace(case, ratios=(ratio(case, OURS, ECHO, 0.80 if barred else None),))


def _lone_caller(bench: Bench, echo: System, model: Model, title: str) -> Case:
    """The bar is over the echo and the bare run together."""
    request = model.request("Score", 1)
    contenders = {OURS: _latency(bench, bench.server, request), ECHO: _latency(bench, echo, request)}
    contenders[RUNTIME] = lambda _turn: bench.bare(model, 1, 1)["p50"]
    case = turns(title, "median latency, µs", contenders, ENOUGH)
    together = [a + b for a, b in zip(case.values[ECHO], case.values[RUNTIME], strict=True)]
    over = f"{ECHO} + {RUNTIME}"
    ratios = tuple(a / b for a, b in zip(case.values[OURS], together, strict=True))
    return replace(case, ratios=(Ratio(title, OURS, over, ratios, 1.25, at_most=True),))


def _many_rows(bench: Bench) -> Iterator[Case]:
    request = MLP.request("Score", 512)
    both = f"{RUNTIME}, {CORES} threads"
    contenders: dict[str, Contender] = {
        OURS: calls(bench, bench.server, "Score", request, concurrency=4),
        both: lambda _turn: bench.bare(MLP, 512, CORES)["calls_per_second"],
    }
    case = turns(f"Score, 512 rows, {MLP.title}, 4 callers", "calls/s", contenders, ENOUGH)
    yield replace(case, ratios=(ratio(case, OURS, both, 0.80),))

    request = TABLE.request("Score", 512)
    answer = bench.load(bench.server, "Score", request, seconds=0.2).answer_bytes
    with python_echo(answer) as echo:
        contenders = {
            OURS: calls(bench, bench.server, "Score", request, concurrency=4),
            ECHO: calls(bench, echo, "Score", request, concurrency=4),
            RUNTIME: lambda _turn: bench.bare(TABLE, 512, 1)["calls_per_second"],
        }
        case = turns(f"Score, 512 rows, {TABLE.title}, 4 callers", "calls/s", contenders, ENOUGH)
        yield replace(case, ratios=(ratio(case, OURS, ECHO, 0.80),))

    contenders = {
        method: calls(bench, bench.server, method, MLP.request(method, 512), concurrency=4)
        for method in ("Embed", "Denoise")
    }
    case = turns(f"Embed and Denoise, 512 rows, {MLP.title}, 4 callers", "calls/s", contenders, ENOUGH)
    yield replace(case, ratios=(ratio(case, "Embed", "Denoise", 1.8),))

    for rows in (64, 512):
        contenders = {
            f"{method}, {model.title}": calls(bench, bench.server, method, model.request(method, rows), concurrency=4)
            for model in MODELS
            for method in ("Score", "Denoise", "Embed")
            if model is not MLP or rows == 64
        }
        yield turns(f"{rows} rows, 4 callers", "calls/s", contenders, FEW)


def _open_protocol(bench: Bench) -> Iterator[Case]:
    """ModelInfer beside Score: the same rows, and of the outputs those that both have."""
    for rows, concurrency in ((1, 64), (512, 4)):
        contenders = {
            OPEN: _open_calls(bench, MLP.open_request(rows), concurrency),
            OURS: calls(bench, bench.server, "Score", MLP.request("Score", rows), concurrency=concurrency),
        }
        title = f"ModelInfer and Score, {rows} rows a call, {MLP.title}, {callers(concurrency)}"
        case = turns(title, "calls/s", contenders, ENOUGH)
        yield replace(case, ratios=(ratio(case, OPEN, OURS, 0.90),))


def _open_calls(bench: Bench, request: bytes, concurrency: int) -> Contender:
    how = {"concurrency": concurrency, "seconds": bench.seconds}
    return lambda _turn: grpc_load(bench.server.address, OPEN_METHOD, [request], **how).calls_per_second  # type: ignore[arg-type]


def _open_loop(bench: Bench) -> Case:
    request = MLP.request("Score", 1)
    answer = bench.load(bench.server, "Score", request, seconds=0.2).answer_bytes
    with python_echo(answer) as echo:
        systems = {OURS: bench.server, ECHO: echo}
        peaks = {name: calls(bench, system, "Score", request, concurrency=64)(0) for name, system in systems.items()}

        def tail(name: str) -> Contender:
            rate = 0.7 * peaks[name]
            return lambda turn: bench.load(systems[name], "Score", request, rate=rate, seconds=4.0, seed=turn).p99

        title = f"Score, single rows, {MLP.title}, Poisson arrivals at 70 % of the own peak"
        case = turns(title, "99th percentile of latency, µs", {name: tail(name) for name in systems}, ENOUGH)
    return replace(case, ratios=(ratio(case, OURS, ECHO, 1.5, at_most=True),))


def _one_client(bench: Bench) -> Case:
    def rows(how: str) -> Contender:
        return lambda _turn: rows_per_second(bench.server.address, how, MLP, _CALLERS, bench.seconds)

    together, apart = "AsyncClient, coalescing", "one RPC a row"
    contenders = {together: rows("coalesced"), apart: rows("rpcs")}
    title = f"Score, single rows from one client process, {MLP.title}, {_CALLERS} callers"
    case = turns(title, "rows/s", contenders, ENOUGH)
    return replace(case, ratios=(ratio(case, together, apart, 8.0),))


def _all_cores(bench: Bench) -> Case:
    """Two processes on one port, asked through eight connections. The generator takes its share of the same cores."""
    request = MLP.request("Score", 1)
    answer = bench.load(bench.server, "Score", request, seconds=0.2).answer_bytes
    with ExitStack() as stack:
        several = stack.enter_context(hourglass(bench.exported["mlp"], "--processes", "2"))
        one, two = stack.enter_context(python_echo(answer)), stack.enter_context(python_echo(answer, 2))
        systems = {OURS: bench.server, f"two of {OURS}": several, ECHO: one, f"two of {ECHO}": two}
        contenders = {
            name: calls(bench, system, "Score", request, concurrency=64, channels=8) for name, system in systems.items()
        }
        case = turns(f"Score, single rows, {MLP.title}, 64 callers, 8 connections", "calls/s", contenders, ENOUGH)
    return replace(
        case,
        ratios=(
            ratio(case, f"two of {OURS}", f"two of {ECHO}", 0.75),
            ratio(case, f"two of {OURS}", OURS, title="what a second process gives"),
            ratio(case, f"two of {ECHO}", ECHO, title="what a second process gives the echo"),
        ),
    )


def _mixed(bench: Bench) -> Case:
    names = [f"{TABLE.name}-{i}" for i in range(COPIES)]
    requests = [TABLE.request(method, rows, name) for name in names for method, rows in (("Score", 1), ("Score", 64))]
    with hourglass(bench.exported["mixed"]) as ten:
        contenders: dict[str, Contender] = {
            "1 and 64 rows in turn": lambda _turn: bench.load(ten, "Score", *requests, concurrency=64).calls_per_second,
            "single rows": lambda _turn: bench.load(ten, "Score", *requests[::2], concurrency=64).calls_per_second,
        }
        return turns(f"Score, {COPIES} models ({TABLE.title}) in turn, 64 callers", "calls/s", contenders, FEW)


def _observing(bench: Bench) -> Case:
    """Processor time of the server for each call, with and without what watches it."""
    request = MLP.request("Score", 1)

    def cost(system: System) -> Contender:
        def measured(_turn: int) -> float:
            before = system.processor_seconds()
            calls = bench.load(system, "Score", request, concurrency=64, seconds=1.0).all_calls
            return (system.processor_seconds() - before) / calls * 1e6

        return measured

    program, without = "benchmarks.serving.unobserved", "without metrics and error mapping"
    with hourglass(bench.exported["mlp"]) as server, hourglass(bench.exported["mlp"], program=program) as bare:
        contenders = {OURS: cost(server), without: cost(bare)}
        case = turns("Score, single rows, 64 callers", "processor time of a call, µs", contenders, 20)
    return replace(case, ratios=(ratio(case, OURS, without, 1.05, at_most=True),))


def _delay(bench: Bench) -> Iterator[Case]:
    request = MLP.request("Score", 1)
    with ExitStack() as stack:
        servers = {
            f"--batch-delay-ms {delay}": stack.enter_context(
                hourglass(bench.exported["mlp"], "--batch-delay-ms", str(delay))
            )
            for delay in (0, 1, 5)
        }
        for concurrency in (1, 64):
            contenders = {
                name: _latency(bench, system, request, concurrency=concurrency) for name, system in servers.items()
            }
            yield turns(
                f"Score, single rows, {MLP.title}, {callers(concurrency)}", "median latency, µs", contenders, FEW
            )


def _start(bench: Bench) -> Case:
    """From the command to the ready line; memory then, and while 512 rows a call are scored."""
    found: dict[str, list[float]] = {"ready, s": [], "resident when ready, MiB": [], "resident under load, MiB": []}
    request = MLP.request("Score", 512)
    for _ in range(ENOUGH):
        with hourglass(bench.exported["mlp"]) as server:
            found["ready, s"].append(server.ready_seconds)
            found["resident when ready, MiB"].append(server.resident() / 2**20)
            bench.load(server, "Score", request, concurrency=4)
            found["resident under load, MiB"].append(server.resident() / 2**20)
    case = Case(f"cold start and memory, one model, {MLP.title}", "", found)
    bars = dict(zip(found, (1.0, 130.0, 250.0), strict=True))
    return replace(
        case,
        ratios=tuple(
            Ratio(case.title, name, "1", tuple(values), bars[name], at_most=True) for name, values in found.items()
        ),
    )
