"""Single rows from one client process: many callers of AsyncClient.score, or of the bare stub with one RPC each.

python -m benchmarks.serving.one_client ADDRESS coalesced|rpcs MODEL CALLERS SECONDS: prints rows per second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import uvloop

from benchmarks.serving.models import MODELS, Model
from hourglass import AsyncClient
from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1.autoencoder_pb2_grpc import AutoencoderStub

_WARMUP_SECONDS = 1.0


async def _measure(address: str, how: str, name: str, callers: int, seconds: float) -> float:
    model = next(model for model in MODELS if model.name == name)
    row = model.rows(1)
    async with AsyncClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        stub = AutoencoderStub(channel)

        async def rpc() -> object:
            # What anybody's client does: rows into a message, the answer's numbers out of it.
            answer = await stub.Score(_request(model.name, row))
            return np.frombuffer(answer.score.data, dtype="<f4")

        async def coalesced() -> object:
            return (await client.score(model.name, row)).score

        return await _rate(coalesced if how == "coalesced" else rpc, callers, seconds)


def _request(name: str, rows: np.ndarray) -> object:
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=rows.shape, data=rows.tobytes())
    return pb.ScoreRequest(model=name, tensor=tensor)


async def _rate(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    start = time.perf_counter() + _WARMUP_SECONDS
    end, answered = start + seconds, 0

    async def caller() -> None:
        nonlocal answered
        while True:
            await call()
            now = time.perf_counter()
            if now >= end:
                return
            answered += now >= start

    await asyncio.gather(*(caller() for _ in range(callers)))
    return answered / seconds


def rows_per_second(address: str, how: str, model: Model, callers: int, seconds: float) -> float:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving.one_client", address, how, model.name]
    return float(subprocess.run([*command, str(callers), str(seconds)], capture_output=True, check=True).stdout)


if __name__ == "__main__":
    address, how, name, callers, seconds = sys.argv[1:]
    print(uvloop.run(_measure(address, how, name, int(callers), float(seconds))))
