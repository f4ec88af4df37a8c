"""Real hourglass-serve processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

_START_SECONDS = 60
_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("HOURGLASS_")}


class Serve:
    """A server of its own process: its log as objects, its ports once it is ready."""

    def __init__(self, exported: Path | str, *flags: str, **environment: str) -> None:
        command = [sys.executable, "-m", "service", "--exported", str(exported)]
        ports = ["--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
        self.process = subprocess.Popen(
            [*command, *ports, *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**_ENVIRONMENT, **environment},
            process_group=0,  # as a terminal does: Ctrl-C is for all of a group
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_logged(self, message: str, times: int = 1) -> dict[str, Any]:
        """The first log line with this message, waiting until there are so many of it."""

        def matching() -> list[dict[str, Any]]:
            return [entry for entry in self.log if entry["message"].startswith(message)]

        with self._changed:
            found = self._changed.wait_for(lambda: self._ended or len(matching()) >= times, _START_SECONDS)
            assert found, f"not logged in time: {message}\n{self.lines}"
        assert len(matching()) >= times, f"ended without logging: {message}\n" + "\n".join(self.lines)
        return matching()[0]

    def wait_ready(self) -> Serve:
        self.ready = self.wait_logged("ready")
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ready['grpc_port']}"

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ready['metrics_port']}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def values(self, name: str, **labels: str) -> list[float]:
        """Of all samples with this name and at least these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        return [
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def metric(self, name: str, **labels: str) -> float:
        values = self.values(name, **labels)
        assert len(values) == 1, f"{name}{labels}: {values}"
        return values[0]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        """The exit code, with everything it logged read."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


def refusal(*flags: str, **environment: str) -> str:
    """The one line with which the server refuses to start, exit code 2."""
    ended = subprocess.run(
        [sys.executable, "-m", "service", *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("hourglass-serve: error: ")
    return line.removeprefix("hourglass-serve: error: ")
