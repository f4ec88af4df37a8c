"""Several server processes on one port: started, watched and ended together. It serves nothing itself but /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from service import logs, ports
from service.config import ENV_PREFIX, Settings
from service.metrics import answer_scrapes
from service.scrape import Processes
from service.start import StartError

log = structlog.get_logger(__name__)

# Before the first, second, ... restart of a process that keeps ending; after the last the server gives up.
_PAUSES = (0.0, 1.0, 2.0)
_SETTLED_SECONDS = 60.0  # who has served for so long does not keep ending


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 1 when a process kept ending. Raises StartError."""
    registry, processes = CollectorRegistry(), Processes()
    registry.register(processes)
    with ports.shared(settings.host, settings.grpc_port) as grpc_port:
        server, metrics_port = answer_scrapes(registry, settings.host, settings.metrics_port)
        try:
            return asyncio.run(_Supervisor(settings, grpc_port, metrics_port, processes).run())
        finally:
            server.shutdown()
            server.server_close()


class _Supervisor:
    def __init__(self, settings: Settings, grpc_port: int, metrics_port: int, processes: Processes) -> None:
        theirs = settings.model_copy(update={"grpc_port": grpc_port, "metrics_port": 0, "config": None})
        self._workers = [_Worker(number, theirs) for number in range(settings.processes)]
        self._ready = partial(logs.ready, settings, grpc_port, metrics_port)
        self._processes = processes
        self._starting = set(self._workers)
        self._stopping = asyncio.Event()
        self._refusal: StartError | None = None
        self._exit_code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self._end, signal.SIGINT)
        await asyncio.gather(*map(self._keep, self._workers))
        if self._refusal:
            raise self._refusal
        log.info("stopped")
        return self._exit_code

    def _terminate(self) -> None:
        # A process that is busy would take two SIGTERMs for one.
        self._end(signal.SIGINT if self._stopping.is_set() else signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        """SIGTERM: every process drains. SIGINT: none does."""
        self._stopping.set()
        for worker in self._workers:
            worker.send(how)

    async def _keep(self, worker: _Worker) -> None:
        """Start a process, and another one when it ends by itself."""
        failures = 0
        while not self._stopping.is_set():
            try:
                served, how = await self._one_life(worker)
            except StartError as error:
                if self._starting and not self._stopping.is_set():
                    self._refusal = error
                    self._end(signal.SIGINT)
                served, how = 0.0, str(error)
            if self._stopping.is_set():
                return
            failures = 1 if served > _SETTLED_SECONDS else failures + 1
            if failures > len(_PAUSES):
                log.error("a process ends again and again: all are stopped", process=worker.number, why=how)
                self._exit_code = 1
                self._end(signal.SIGTERM)
                return
            pause = _PAUSES[failures - 1]
            log.error("a process ended, another takes its place", process=worker.number, why=how, seconds=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            self._processes.restarts += 1

    async def _one_life(self, worker: _Worker) -> tuple[float, str]:
        """For how many seconds a process has served, and how it ended. Raises StartError when it never did."""
        process = await worker.start()
        if self._stopping.is_set():  # it was not there yet to be told
            worker.send(signal.SIGINT)
        self._processes.ports[worker.number] = await worker.served()
        log.info("process serves", process=worker.number, pid=process.pid)
        began = asyncio.get_running_loop().time()
        if self._starting:
            self._starting.discard(worker)
            if not self._starting:
                self._ready()
        how = _how(await process.wait())
        del self._processes.ports[worker.number]
        return asyncio.get_running_loop().time() - began, how


class _Worker:
    """The process of one number: the first, and those that take its place."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._process: Process | None = None

    async def start(self) -> Process:
        """Raises StartError when the machine has no room for another process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.worker", str(self.number)),
                stdin=PIPE,
                stdout=PIPE,
                # The same modules as here, though this process has left the directory it was started from.
                env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                # A terminal's Ctrl-C is for the supervisor, which passes it on.
                process_group=0,
            )
        except OSError as error:
            raise StartError(f"process {self.number} of --processes cannot be started: {error.strerror}") from None
        return self._process

    async def served(self) -> int:
        """Waits until it serves. Returns the port of its metrics. Raises StartError when it ends before that."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._settings)
        said: dict[str, Any] = {}
        while not said and (line := await process.stdout.readline()):
            with contextlib.suppress(ValueError):  # what others print before it can speak
                found = json.loads(line)
                said = found if isinstance(found, dict) else {}
        if "metrics_port" in said:
            return int(said["metrics_port"])
        how = _how(await process.wait())
        raise StartError(said.get("error") or f"process {self.number} of --processes ended before it served: {how}")

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                self._process.send_signal(number)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
