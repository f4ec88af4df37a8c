"""The peers' own Python clients: single rows from one process."""

from __future__ import annotations

import json
import subprocess

from benchmarks.serving.peers.catalogue import KSERVE
from benchmarks.serving.peers.process import INSIDE, environment

CLIENTS = {
    "triton": ("triton-client", ("tritonclient[grpc]==2.73.0",)),
    "kserve": (KSERVE.name, KSERVE.requirements),
}


def own_client(name: str, address: str, concurrency: int, seconds: float) -> float:
    """Rows per second of a peer's own client: that many one-row Score calls at a time for so long, after a second."""
    python = environment(*CLIENTS[name])
    command = [str(python), str(INSIDE / f"{name}_client.py"), address, str(concurrency), str(seconds)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rate: float = json.loads(answer.splitlines()[-1])
    return rate
