"""A port that the processes of one server share, and no other server may."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from service.start import StartError

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


@contextlib.contextmanager
def shared(host: str, port: int) -> Iterator[int]:
    """Keep a port for sockets with SO_REUSEPORT. Yields the port, which is `port` unless that is 0.

    Raises StartError when somebody has it, also without listening yet.
    """
    with contextlib.ExitStack() as kept:
        try:
            missing: OSError | None = None
            keeps = False
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                # Of a name with several addresses, all on the same port; but for those that are not this machine's.
                try:
                    keeper = kept.enter_context(_keep(family, (address[0], port, *address[2:])))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                else:
                    port, keeps = keeper.getsockname()[1], True
            if missing and not keeps:
                raise missing
        except (OSError, UnicodeError) as error:
            raise StartError(f"--grpc-port {port} on {host}: {getattr(error, 'strerror', None) or error}") from None
        yield port


def _keep(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket that never listens, so that no connection is its own."""
    keeper = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections that ended a moment ago are no reason to fail; another server is: sharing begins afterwards.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(address)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        keeper.close()
        raise
    return keeper
