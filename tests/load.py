"""Callers under load, and what failed for them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np

from hourglass import Client, HourglassError
from hourglass.v1 import autoencoder_pb2 as pb
from tests import wire

ROWS = np.ones((2, 4), dtype=np.float32)
REQUEST = pb.ScoreRequest(model="line", tensor=wire.tensor(ROWS))

Call = Callable[[], object]


@contextlib.contextmanager
def bare_caller(target: str, config: dict[str, object] | None = None) -> Iterator[Call]:
    """Stubs on a connection of its own, without retries."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    if config:
        options.append(("grpc.service_config", json.dumps(config)))
    with grpc.insecure_channel(target, options=options) as channel:
        stub = wire.stub(channel)
        yield lambda: stub.Score(REQUEST, timeout=30)


@contextlib.contextmanager
def shipped_client(target: str) -> Iterator[Call]:
    with Client(target) as client:
        yield lambda: client.score("line", ROWS)


class Load:
    """Callers who ask again as soon as they are answered."""

    def __init__(self, callers: int, connect: Callable[[], contextlib.AbstractContextManager[Call]]) -> None:
        self.failures: list[tuple[float, str]] = []
        self.calls = 0
        self._stop = threading.Event()
        self._enough = threading.Condition()
        self._threads = [threading.Thread(target=self._ask, args=(connect,)) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _ask(self, connect: Callable[[], contextlib.AbstractContextManager[Call]]) -> None:
        with connect() as call:
            while not self._stop.is_set():
                begun = time.time()
                try:
                    call()
                except (grpc.RpcError, HourglassError) as error:
                    self.failures.append((begun, str(error)))
                    return
                with self._enough:
                    self.calls += 1
                    self._enough.notify_all()

    def wait_calls(self, more: int) -> None:
        with self._enough:
            target = self.calls + more
            assert self._enough.wait_for(lambda: self.calls >= target, 120)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
