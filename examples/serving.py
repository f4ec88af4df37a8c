"""A server of its own process, for the programs here and for the benchmarks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Serving:
    """Where a ready server listens, and its process."""

    address: str
    metrics_url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def serving(exported: Path, *flags: str, program: str = "service") -> Iterator[Serving]:
    """hourglass-serve on free ports, ready; ended by SIGTERM. Raises RuntimeError with its last words.

    program: the module to run, where it is one that takes the server's flags.
    """
    command = [sys.executable, "-m", program, "--exported", str(exported)]
    ends = ["--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
    process = subprocess.Popen([*command, *ends, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        for line in process.stderr:
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") == "ready":
                break
        else:
            raise RuntimeError(f"the server ended with exit code {process.wait()}: {line.strip()}")
        # Somebody has to read on, or a talkative server would wait for it.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        address = f"127.0.0.1:{entry['grpc_port']}"
        yield Serving(address, f"http://127.0.0.1:{entry['metrics_port']}/metrics", process)
    finally:
        process.terminate()
        process.wait(30)
