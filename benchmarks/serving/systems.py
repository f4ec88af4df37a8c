"""What is measured, as processes that are ready: the server, the echoes, the bare runtime."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.programs import compiled
from examples.serving import serving

_TICKS = 100  # of /proc/PID/stat a second


@dataclass(frozen=True)
class System:
    address: str
    pids: tuple[int, ...]
    ready_seconds: float = 0.0

    def processor_seconds(self) -> float:
        return sum(_processor_seconds(pid) for pid in self.pids)

    def resident(self) -> int:
        """Bytes."""
        return sum(int(_status(pid, "VmRSS")) * 1024 for pid in self.pids)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


@contextmanager
def hourglass(exported: Path, *flags: str, program: str = "service") -> Iterator[System]:
    """As `serving`, with the time that it took to be ready."""
    began = time.perf_counter()
    with serving(exported, *flags, program=program) as server:
        yield System(server.address, (server.process.pid,), time.perf_counter() - began)


@contextmanager
def python_echo(answer_bytes: int, processes: int = 1) -> Iterator[System]:
    started: list[subprocess.Popen[str]] = []
    port = "0"
    try:
        for _ in range(processes):
            command = [sys.executable, "-m", "benchmarks.serving.echo", "--answer-bytes", str(answer_bytes)]
            started.append(subprocess.Popen([*command, "--port", port], stdout=subprocess.PIPE, text=True))
            assert started[-1].stdout is not None
            port = started[-1].stdout.readline().strip()
        yield System(f"127.0.0.1:{port}", tuple(process.pid for process in started))
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def cpp_echo(answer_bytes: int) -> Iterator[System | None]:
    """None where it cannot be compiled."""
    program = compiled("echo")
    if program is None:
        yield None
        return
    with subprocess.Popen([program, "--answer-bytes", str(answer_bytes)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield System(f"127.0.0.1:{process.stdout.readline().strip()}", (process.pid,))
        finally:
            process.kill()


class Runtime:
    """onnxruntime alone, in a process that waits to be asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(
        self, file: Path, shape: Sequence[int], outputs: Sequence[str], callers: int, seconds: float
    ) -> Mapping[str, Any]:
        """calls_per_second, and p50 in microseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"file": str(file), "shape": shape, "outputs": outputs, "callers": callers, "seconds": seconds}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: Mapping[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def runtime() -> Iterator[Runtime]:
    command = [sys.executable, "-m", "benchmarks.serving.limits"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Runtime(process)
        assert process.stdin is not None
        process.stdin.close()
