"""Other servers on the same ONNX file, each beside the server here, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.serving.cases import FEW, OURS, Bench, callers, calls
from benchmarks.serving.load import Measured, grpc_load, http_load
from benchmarks.serving.measuring import Case, Contender, Ratio, ratio, turns
from benchmarks.serving.models import MLP
from benchmarks.serving.one_client import rows_per_second
from benchmarks.serving.peers import CLIENTS, PEERS, Output, Peer, Server, own_client
from benchmarks.serving.systems import System, hourglass, runtime
from hourglass import Client

_TRITON = "triton"
_NOT_PYTHON = {_TRITON, "torchserve"}  # their front ends are C++ and Java
_CALLERS = 256
_SINGLE: tuple[tuple[int, Output, int], ...] = ((1, "score", 1), (1, "score", 8), (1, "score", 64))
_MANY: tuple[tuple[int, Output, int], ...] = ((512, "reconstruction", 1), (512, "reconstruction", 4))
_METHODS: Mapping[str, str] = {"score": "Score", "reconstruction": "Denoise"}


def configurations() -> dict[str, dict[str, object]]:
    return {
        peer.name: {"requirements": list(peer.requirements), "configuration": peer.configuration}
        for peer in PEERS.values()
    }


def all_cases(exported: Mapping[str, Path], names: Sequence[str]) -> Iterator[Case]:
    """Of each peer named, or all; then the best of those in Python, where there are several."""
    measured: dict[str, list[Case]] = {}
    with hourglass(exported["mlp"]) as server, runtime() as bare:
        bench = Bench(exported, server, bare)
        for name in names or PEERS:
            peer = PEERS[name]
            with peer.serving(exported["all"] / MLP.name / "1" / "model.onnx") as other:
                _check(server, peer, other)
                measured[name] = list(_beside(bench, peer, other))
                yield from measured[name]
                if name in CLIENTS:
                    yield _own_clients(bench, name, other)
                yield _memory(server, name, other)
    python = {name: found for name, found in measured.items() if name not in _NOT_PYTHON}
    if python:
        yield from _best(python)


def _check(server: System, peer: Peer, other: Server) -> None:
    """That both answer the same. Raises AssertionError."""
    rows = MLP.rows(3)
    with Client(server.address) as client:
        ours = {"score": client.score(MLP.name, rows).score, "reconstruction": client.denoise(MLP.name, rows).values}
    outputs: tuple[Output, ...] = ("score", "reconstruction")
    for output in outputs:
        theirs = peer.answer(peer.ask(other.address, peer.request(rows, output)), output)
        np.testing.assert_allclose(theirs, ours[output], rtol=1e-4, atol=1e-5, err_msg=f"{peer.name}: {output}")


def _beside(bench: Bench, peer: Peer, other: Server) -> Iterator[Case]:
    for rows, output, concurrency in _SINGLE + _MANY:
        mine = calls(
            bench, bench.server, _METHODS[output], MLP.request(_METHODS[output], rows), concurrency=concurrency
        )
        theirs = _load(peer, other, peer.request(MLP.rows(rows), output), concurrency, bench.seconds)
        what = "1 row" if rows == 1 else f"{rows} rows"
        case = turns(
            f"{_METHODS[output]}, {what}, {callers(concurrency)}: beside {peer.name}",
            "calls/s",
            {OURS: mine, peer.name: theirs},
            FEW,
        )
        barred = peer.name == _TRITON and (rows, concurrency) == (512, 4)
        yield replace(case, ratios=(ratio(case, OURS, peer.name, 1.6 if barred else None),))


def _load(peer: Peer, other: Server, body: bytes, concurrency: int, seconds: float) -> Contender:
    load: Callable[[], Measured]
    if peer.protocol == "grpc":
        load = partial(grpc_load, other.address, peer.method, [body], concurrency=concurrency, seconds=seconds)
    else:
        where = other.address, peer.method, peer.content_type
        load = partial(http_load, *where, body, concurrency=concurrency, seconds=max(1.0, seconds))
    return lambda _turn: load().calls_per_second


def _own_clients(bench: Bench, name: str, other: Server) -> Case:
    """Through the client that each system brings: ours puts rows together."""
    contenders: dict[str, Contender] = {
        OURS: lambda _turn: rows_per_second(bench.server.address, "coalesced", MLP, _CALLERS, bench.seconds),
        name: lambda _turn: own_client(name, other.address, 64, bench.seconds),
        f"{name}, {_CALLERS} callers": lambda _turn: own_client(name, other.address, _CALLERS, bench.seconds),
    }
    case = turns(f"single rows from one client process: beside {name}'s own client", "rows/s", contenders, FEW)
    best = max(list(contenders)[1:], key=lambda contender: sum(case.values[contender]))
    return replace(case, ratios=(ratio(case, OURS, best, 3.0 if name == _TRITON else None),))


def _memory(server: System, name: str, other: Server) -> Case:
    values = {OURS: [server.resident() / 2**20], name: [other.memory() / 2**20]}
    return Case(f"resident memory after all this: beside {name}", "MiB", values)


def _best(python: Mapping[str, Sequence[Case]]) -> Iterator[Case]:
    """Against the best peer in Python of each row: turns with different peers are minutes apart, ratios are not."""
    for i, bar in ((len(_SINGLE) - 1, 2.0), (len(_SINGLE) + len(_MANY) - 1, 1.6)):
        closest = min((found[i] for found in python.values()), key=lambda case: case.ratios[0].median)
        one: Ratio = closest.ratios[0]
        title = f"beside the best peer in Python: {closest.title}"
        yield Case(title, closest.unit, closest.values, (replace(one, title=title, bar=bar),))
