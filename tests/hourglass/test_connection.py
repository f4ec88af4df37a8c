"""The way to the servers: names with several addresses, health, the retry budget."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from hourglass import Client, HourglassError
from tests.hourglass.fake import Failure, Fake, serving

ROWS = np.ones((1, 4))
SERVICE = "hourglass.v1.Autoencoder"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def name_server(*addresses: str) -> Iterator[str]:
    """A DNS server that gives every name these IPv4 addresses, and no IPv6 one; where it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                query, asker = listener.recvfrom(512)
                if not query:
                    return
                end = query.index(0, 12) + 5  # of the question: the name, its type and class
                wanted = addresses if query[end - 4 : end - 2] == b"\0\1" else ()
                records = [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address) for address in wanted]
                counts = b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
                listener.sendto(query[:2] + b"\x85\x80" + counts + query[12:end] + b"".join(records), asker)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.sendto(b"", listener.getsockname())
            thread.join()


@dataclass
class Healthy(Fake):
    """With health that a test sets."""

    health: health.HealthServicer = field(default_factory=health.HealthServicer)

    def say(self, status: int) -> None:
        self.health.set(SERVICE, status)


def healthy(stack: ExitStack, listen: str = "127.0.0.1:0") -> Healthy:
    fake = Healthy()
    fake.say(SERVING)
    stack.enter_context(
        serving(fake, listen=listen, more=lambda s: health_pb2_grpc.add_HealthServicer_to_server(fake.health, s))
    )
    return fake


def test_calls_go_round_the_addresses_of_a_name() -> None:
    with ExitStack() as stack:
        one = healthy(stack)
        two = healthy(stack, one.address.replace("127.0.0.1", "127.0.0.2"))
        port = one.address.rpartition(":")[2]
        target = f"dns://{stack.enter_context(name_server('127.0.0.1', '127.0.0.2'))}/models.example:{port}"
        with Client(target) as client:
            reach(client, one, two)
            before = len(one.requests), len(two.requests)
            for _ in range(20):
                client.embed("m", ROWS)
            # Each call asks the next one.
            assert (len(one.requests) - before[0], len(two.requests) - before[1]) == (10, 10)


def reach(client: Client, *servers: Fake) -> None:
    """Until each has been asked."""
    known = [len(server.requests) for server in servers]
    call_until(client, lambda: all(len(s.requests) > before for s, before in zip(servers, known, strict=True)))


def call_until(client: Client, reached: Callable[[], bool]) -> None:
    """News of addresses and health takes some calls to arrive."""
    for _ in range(5_000):
        if reached():
            return
        client.embed("m", ROWS)
    raise AssertionError("not within 5,000 calls")


def test_a_server_that_says_it_drains_is_left_and_found_again() -> None:
    with ExitStack() as stack:
        one, two = healthy(stack), healthy(stack)
        client = stack.enter_context(Client(f"ipv4:{one.address},{two.address}"))
        reach(client, one, two)
        one.say(NOT_SERVING)
        seen = deque([0], maxlen=20)

        def left() -> bool:
            seen.append(len(one.requests))
            return len(seen) == 20 and seen[0] == seen[-1]

        call_until(client, left)
        asked = len(one.requests)
        assert asked == seen[0]
        one.say(SERVING)
        reach(client, one)
        assert len(one.requests) > asked


def test_a_servers_own_health_is_told_when_no_call_goes_there() -> None:
    with ExitStack() as stack:
        fake = healthy(stack)
        for name in ("", "liveness", "model/m"):
            fake.health.set(name, SERVING)
        client = stack.enter_context(Client(fake.address, timeout=5))
        assert client.health().ok
        fake.say(NOT_SERVING)
        fake.health.set("", NOT_SERVING)
        with pytest.raises(HourglassError, match="is hourglass-serve running and ready there"):
            call_until(client, lambda: False)
        told = client.health()
        assert (told.ready, told.live, told.service, told.models, told.ok) == (False, True, False, {"m": True}, False)


def test_retries_stop_when_most_calls_fail(start: Callable[..., Fake]) -> None:
    full = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=1)
    fake = start(before=lambda request: full)
    with Client(fake.address) as client:
        attempts = []
        for _ in range(30):
            asked = len(fake.requests)
            with pytest.raises(HourglassError, match="no"):
                client.embed("m", ROWS)
            attempts.append(len(fake.requests) - asked)
        assert attempts[:10] == [4] * 10
        assert attempts[-10:] == [1] * 10
        fake.before = lambda request: None
        for _ in range(40):
            client.embed("m", ROWS)
        fake.failures.append(full)
        client.embed("m", ROWS)  # there is room for a retry again
