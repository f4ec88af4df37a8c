"""Calls of given bytes against a server: by the C++ program, for HTTP by wrk, and by Python processes elsewhere.

python -m benchmarks.serving.load takes the arguments of load.cpp and prints what it prints: the Python generator, whose
processes need more of the machine than the server, and which says so on the results' page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.serving.programs import compiled

WARMUP_SECONDS = 0.5
_PROCESSES = 2
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True)
class Measured:
    """calls_per_second: of the window. all_calls: warm-up and end included. p50 …: latencies in microseconds."""

    calls_per_second: float
    all_calls: int
    answer_bytes: int
    p50: float
    p99: float


def generator() -> str:
    return "C++ (load.cpp)" if compiled("load") else "Python (load.py)"


def grpc_load(
    address: str,
    method: str,
    requests: Sequence[bytes],
    *,
    concurrency: int = 1,
    rate: float = 0.0,
    seconds: float = 2.0,
    channels: int = 1,
    seed: int = 0,
) -> Measured:
    """Closed loop, or with a rate an open one. Raises RuntimeError when a call fails."""
    program = compiled("load")
    command = [str(program)] if program else [sys.executable, "-m", "benchmarks.serving.load"]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, request in enumerate(requests):
            file = Path(folder, str(i))
            file.write_bytes(request)
            files += ["--request", str(file)]
        how = ["--rate", str(rate), "--seed", str(seed)] if rate else ["--concurrency", str(concurrency)]
        times = ["--seconds", str(seconds), "--warmup", str(WARMUP_SECONDS), "--channels", str(channels)]
        done = subprocess.run(
            [*command, address, method, *files, *how, *times], capture_output=True, text=True, check=True
        )
    result = json.loads(done.stdout)
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['all_calls']} calls failed: {result['first_error']}")
    return Measured(**{name: result[name] for name in Measured.__annotations__})


def http_load(address: str, path: str, content_type: str, body: bytes, *, concurrency: int, seconds: float) -> Measured:
    """Closed loop, by wrk. Raises RuntimeError when a call fails."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "body").write_bytes(body)
        script = Path(folder, "post.lua")
        script.write_text(
            f'local file = io.open("{folder}/body", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\n'
            f'wrk.headers["Content-Type"] = "{content_type}"\n'
        )
        url, many = f"http://{address}{path}", ["-t", "1", "-c", str(concurrency)]
        command = ["wrk", *many, "-d", f"{seconds:.0f}s", "--timeout", "30s", "--latency", "-s", str(script), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    latencies = {name: _microseconds(re.findall(rf"\b{name}%\s+([\d.]+)(us|ms|s)", said)[0]) for name in ("50", "99")}
    rate, calls = re.findall(r"Requests/sec:\s+([\d.]+)", said)[0], re.findall(r"(\d+) requests in", said)[0]
    return Measured(float(rate), int(calls), 0, latencies["50"], latencies["99"])


def _microseconds(given: tuple[str, str]) -> float:
    number, unit = given
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("method")
    parser.add_argument("--request", action="append", required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    share = min(_PROCESSES, arguments.concurrency) if not arguments.rate else _PROCESSES
    with multiprocessing.get_context("spawn").Pool(share) as pool:
        parts = pool.starmap(_process, [(arguments, share, i) for i in range(share)])
    latencies = sorted(latency for part in parts for latency in part["latencies"])
    print(
        json.dumps(
            {
                "calls_per_second": len(latencies) / arguments.seconds,
                "calls": len(latencies),
                "all_calls": sum(part["all_calls"] for part in parts),
                "errors": sum(part["errors"] for part in parts),
                "first_error": next((part["first_error"] for part in parts if part["first_error"]), ""),
                "answer_bytes": max(part["answer_bytes"] for part in parts),
                **{name: _quantile(latencies, share) for name, share in _QUANTILES.items()},
            }
        )
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _process(arguments: argparse.Namespace, processes: int, number: int) -> dict[str, Any]:
    return uvloop.run(_generate(arguments, processes, number))


async def _generate(arguments: argparse.Namespace, processes: int, number: int) -> dict[str, Any]:
    """This process's share of the load."""
    requests = [Path(file).read_bytes() for file in arguments.request]
    lengths = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(arguments.address, lengths) for _ in range(arguments.channels)]
    calls = [channel.unary_unary(arguments.method) for channel in channels]
    for channel in channels:
        await channel.channel_ready()
    start = time.perf_counter() + arguments.warmup
    end = start + arguments.seconds
    found: dict[str, Any] = {"latencies": [], "all_calls": 0, "errors": 0, "first_error": "", "answer_bytes": 0}

    async def once(i: int, meant: float) -> None:
        try:
            answer = await calls[i % len(calls)](requests[i % len(requests)])
        except grpc.RpcError as error:
            found["errors"] += 1
            found["first_error"] = found["first_error"] or str(error.details())
        else:
            found["answer_bytes"] = len(answer)
        now = time.perf_counter()
        found["all_calls"] += 1
        if start <= now < end:
            found["latencies"].append((now - meant) * 1e6)

    async def again_and_again(first: int) -> None:
        i = first
        while (now := time.perf_counter()) < end:
            await once(i, now)
            i += arguments.concurrency

    if not arguments.rate:
        await asyncio.gather(*(again_and_again(i) for i in range(number, arguments.concurrency, processes)))
    else:
        draws = random.Random(arguments.seed * processes + number)
        tasks: list[asyncio.Task[None]] = []
        meant = time.perf_counter()
        while (meant := meant + draws.expovariate(arguments.rate / processes)) < end:
            await asyncio.sleep(max(0.0, meant - time.perf_counter()))
            tasks.append(asyncio.create_task(once(len(tasks), meant)))
        await asyncio.gather(*tasks)
    for channel in channels:
        await channel.close()
    return found


if __name__ == "__main__":
    main()
