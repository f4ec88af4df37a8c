"""How the client reaches its servers: balancing, health, retries, credentials."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

_SERVICE = "hourglass.v1.Autoencoder"
_KEPT_FOR_RETRY = 64 * 2**20

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains says NOT_SERVING here and keeps answering: nothing new is sent to it, nothing fails.
    "healthCheckConfig": {"serviceName": _SERVICE},
    "methodConfig": [
        {
            "name": [{"service": _SERVICE}],
            # Every RPC is a pure function, so all are safe to retry. CANCELLED is what a call gets that meets a
            # server in the moment it stops; our own cancelling ends a call for good. RESOURCE_EXHAUSTED comes with
            # the server's own delay (grpc-retry-pushback-ms).
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    # A budget: when more than half of the calls fail, retries stop making it worse.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config_disable_resolution", 1),
    # gRPC forgets a message above 256 KiB and then cannot send it again.
    ("grpc.per_rpc_retry_buffer_size", _KEPT_FOR_RETRY),
    # The server's limits decide.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Finds out within a minute that a peer is gone without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to prove who we are; the files are read once, here.

    TLS is used when `ca_file` (the authority that signed the server's certificate) is given; `cert_file` and
    `key_file` add the client's own (mutual TLS). `token_file` holds a bearer token; without TLS it is only sent to
    this machine. timeout: seconds. Raises OSError for a file that cannot be read, ValueError for settings that do not
    fit together.
    """

    server: str
    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    token_file: str | Path | None = None
    timeout: float = 30.0
    metadata: tuple[tuple[str, str], ...] = field(init=False, default=())
    credentials: grpc.ChannelCredentials | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not 0 < self.timeout < 2**31:  # gRPC counts nanoseconds in 64 bits
            raise ValueError(f"the timeout is a number of seconds above 0 and below 2^31, not {self.timeout:g}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs both its files: the certificate and the key")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("a client certificate needs TLS: give the file of the server's authority too")
        if self.token_file is not None:
            if self.ca_file is None and not _is_this_machine(self.server):
                raise ValueError(f"the token would cross the network to {self.server} unencrypted: give a CA file too")
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
            if not token or not token.isascii() or not token.isprintable():
                raise ValueError(f"{self.token_file}: a token is one line of printable ASCII")
            object.__setattr__(self, "metadata", (("authorization", f"Bearer {token}"),))
        if self.ca_file is not None:
            pem = [None if path is None else Path(path).read_bytes() for path in (self.key_file, self.cert_file)]
            credentials = grpc.ssl_channel_credentials(Path(self.ca_file).read_bytes(), *pem)
            object.__setattr__(self, "credentials", credentials)

    def open(self, library: Any, *, balanced: bool = True) -> Any:
        """A channel of `grpc` or `grpc.aio`. balanced: over all servers that say they are ready, with retries; else to
        one of them, whatever it says."""
        # gRPC would go through $http_proxy even to this machine, with the token.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not _is_this_machine(self.server)))]
        if balanced:
            options.append(("grpc.service_config", json.dumps(_SERVICE_CONFIG)))
        if self.credentials is None:
            return library.insecure_channel(self.server, options)
        return library.secure_channel(self.server, self.credentials, options)


def _is_this_machine(server: str) -> bool:
    """Whether every address of a gRPC target is a loopback one, written out or `localhost`, or a Unix socket."""
    if server.startswith(("unix:", "unix-abstract:")):
        return True
    addresses = re.sub(r"^(dns:///|dns:(?!//)|ipv4:|ipv6:)", "", server).split(",")
    return all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    parts = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(:\d+)?", address)
    if parts is None:
        return False
    host = parts["v6"] or parts["name"]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, whatever it begins with
        return False
