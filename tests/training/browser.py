"""A headless Chromium that tells what happens on a page: the DevTools protocol over two pipes, nothing installed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_SECONDS = 60.0


def program() -> str:
    """The first one found; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        pytest.skip(f"no browser ({' or '.join(_PROGRAMS)}): apt-get install chromium fonts-dejavu-core")
    return found


class Browser:
    """One page at a time. events: (method, params) of everything the current page did."""

    def __init__(self, profile: Path) -> None:
        command = [program(), *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        child_reads, self._to = _pipe()
        self._from, child_writes = _pipe()
        self._process = subprocess.Popen(
            command,
            close_fds=False,  # 3 and 4 are to be kept; Python's own are not inherited anyway
            preexec_fn=lambda: (os.dup2(child_reads, 3), os.dup2(child_writes, 4)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._unread, self._last_id, self._session = b"", 0, None
        self.events: list[tuple[str, dict[str, Any]]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, url: str, width: int = 1200, dark: bool = False) -> None:
        """Load the page to its end."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._receive()

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        return [params["request"]["url"] for method, params in self.events if method == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        """Everything that the console would show."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [params for method, params in self.events if method in methods]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": self._last_id, "method": method, "params": params, **session})
        os.write(self._to, message.encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._from, 2**16) if ready else b""
            assert data, f"the browser said nothing for {_SECONDS:g} s, or ended (exit code {self._process.poll()})"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        received = json.loads(message)
        if "method" in received:
            self.events.append((received["method"], received["params"]))
        return received

    def close(self) -> None:
        os.close(self._to)  # it ends when nobody speaks to it any more
        os.close(self._from)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _pipe() -> tuple[int, int]:
    """Ends numbered above 3 and 4, which the child wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
