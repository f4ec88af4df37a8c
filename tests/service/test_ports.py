"""A port that several processes share: theirs, and nobody else's."""

from __future__ import annotations

import socket

import pytest

from service.ports import shared
from service.start import StartError

HOST = "127.0.0.1"


def sharing(port: int) -> socket.socket:
    """As gRPC listens with grpc.so_reuseport."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((HOST, port))
    listening.listen()
    return listening


def assert_refused(port: int) -> None:
    with pytest.raises(StartError, match=f"--grpc-port {port} on {HOST}: Address already in use"), shared(HOST, port):
        pass


def test_it_is_kept_while_nobody_listens_and_while_processes_do() -> None:
    with shared(HOST, 0) as port:
        assert_refused(port)
        with pytest.raises(OSError, match="in use"):
            socket.create_server((HOST, port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        with sharing(port), sharing(port):
            assert_refused(port)
            socket.create_connection((HOST, port)).close()
        with sharing(port):
            pass
    with shared(HOST, port):
        pass


def test_a_server_that_does_not_share_has_it_alone() -> None:
    with socket.create_server((HOST, 0)) as alone:
        assert_refused(alone.getsockname()[1])


def test_connections_that_the_kernel_remembers_are_in_nobodys_way() -> None:
    """Those that the server closed: it waits for a minute whether more comes."""
    with socket.create_server((HOST, 0)) as before:
        port = before.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            before.accept()[0].close()
            assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"), socket.socket() as careless:
        careless.bind((HOST, port))
    with shared(HOST, port), sharing(port):
        pass


def test_all_addresses_of_a_name_have_the_same_port() -> None:
    names = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with shared("localhost", 0) as port:
        for name in names:
            with pytest.raises(OSError, match="in use"):
                socket.create_server((name, port), family=socket.AF_INET6 if ":" in name else socket.AF_INET)


@pytest.mark.parametrize("host", ["..", "a" * 70, "192.0.2.1"])
def test_what_is_no_address_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(StartError, match=rf"--grpc-port 0 on {host}: "), shared(host, 0):
        pass
