"""A peer: the environment it lives in, the process that serves, and how it is asked."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CACHE

INSIDE = Path(__file__).with_name("inside")  # what runs in the peers' environments
READY_WITHIN = 120.0  # seconds
MODEL = "model"  # the name each peer serves it under
FEATURES = 784

Output = Literal["score", "reconstruction"]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """What a peer needs to know to start."""

    environment: Path
    model_path: Path
    folder: Path  # empty, and gone afterwards
    port: int

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    @property
    def packages(self) -> Path:
        return next(self.environment.glob("lib/python3*/site-packages"))


@dataclass(frozen=True)
class Server:
    """A peer that is ready."""

    address: str
    pid: int

    def pids(self) -> list[int]:
        """All of its processes."""
        return _family(self.pid)

    def memory(self) -> int:
        """Bytes resident, summed over its processes: pages that they share count in each."""
        return sum(map(_resident, self.pids()))


@dataclass(frozen=True)
class Peer:
    """A server of others. `request` and `answer` are the bodies on the wire; `start` gives a command and what its
    environment has beside ours."""

    name: str
    requirements: tuple[str, ...]
    protocol: Literal["grpc", "http"]
    method: str  # the path, in either protocol
    content_type: str  # of an HTTP request; empty for gRPC
    configuration: str  # the settings that matter, for the page of results
    request: Callable[[Rows, Output], bytes]
    answer: Callable[[bytes, Output], Rows]
    start: Callable[[Place], tuple[list[str], Mapping[str, str]]]

    @contextmanager
    def serving(self, model_path: Path) -> Iterator[Server]:
        """Serves the ONNX file. Makes the environment when there is none (minutes)."""
        python = environment(self.name, self.requirements)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as temporary:
            folder = Path(temporary)
            place = Place(python.parent.parent, model_path.resolve(), folder, free_port())
            command, extra = self.start(place)
            path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
            log = folder / "log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, "PATH": path, **extra},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                address = f"127.0.0.1:{place.port}"
                self._wait(process, address, log)
                yield Server(address, process.pid)
            finally:
                _end(process)

    def ask(self, address: str, body: bytes) -> bytes:
        """One call. Raises grpc.RpcError or OSError."""
        if self.protocol == "grpc":
            with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
                answer: bytes = channel.unary_unary(self.method)(body, timeout=10, wait_for_ready=False)
                return answer
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("POST", self.method, body, {"Content-Type": self.content_type})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise OSError(f"{response.status}: {content[:200]!r}")
            return content
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error
        finally:
            connection.close()

    def _wait(self, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
        """Until a row is answered: what a peer calls ready is not always."""
        body = self.request(np.zeros((1, FEATURES), np.float32), "score")
        deadline = time.monotonic() + READY_WITHIN
        reason = ""
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self.ask(address, body)
                return
            except (grpc.RpcError, OSError) as error:
                reason = str(error)
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} is not ready: {reason}\n{log.read_text(errors='replace')[-4000:]}")


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The python of an environment with the requirements."""
    folder = CACHE / name
    ready = folder / ".ready"
    wanted = "\n".join(requirements)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"installing {', '.join(requirements)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *requirements], check=True)
        ready.write_text(wanted)
    return folder / "bin" / "python"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _family(leader: int) -> list[int]:
    """Its session and its descendants: some peers' helpers leave the session, some lose their parent."""
    parents, found = {}, {leader}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                _, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(parent)
            if int(session) == leader:
                found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the group, then kills whatever of the family is left."""
    family = set(_family(process.pid)) - {process.pid}
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    family |= set(_family(process.pid))
    for pid in family - {process.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 15
    # Orphans are ended by the kernel in its own time: what is measured next must not share the cores with them.
    while any(map(_resident, family)) and time.monotonic() < deadline:
        time.sleep(0.02)
