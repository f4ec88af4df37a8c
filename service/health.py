"""grpc.health.v1: which names say what.

grpcio-health-checking's own asyncio servicer forgets the other watchers of a name when one of them leaves, and its
watches have no end, so that a stopping server would wait for them: hence this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_READY = ""
_LIVE = "liveness"
_MODEL = "model/"
_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Readiness under "", each service's name and model/<name>; "liveness" stays SERVING to the end, or the kubelet
    would cut the drain short."""

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses = dict.fromkeys((_READY, _LIVE, *services), _Status.SERVING)
        self._changed = asyncio.Event()
        self._draining = False
        self._ended = False

    @property
    def ready(self) -> bool:
        return bool(self._statuses[_READY] == _Status.SERVING)

    def serve(self, models: Iterable[str]) -> None:
        """These models, and no others. A name that is gone is as unknown as one that never was."""
        status = _Status.NOT_SERVING if self._draining else _Status.SERVING
        others = {name: of for name, of in self._statuses.items() if not name.startswith(_MODEL)}
        self._statuses = {**others, **dict.fromkeys((f"{_MODEL}{name}" for name in models), status)}
        self._tell()

    def drain(self) -> None:
        """From now on nobody should send calls here."""
        self._draining = True
        for name in self._statuses.keys() - {_LIVE}:
            self._statuses[name] = _Status.NOT_SERVING
        self._tell()

    def end(self) -> None:
        """Ends every watch."""
        self._ended = True
        self._tell()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such health name")
        return _Status(status=self._statuses[request.service])

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        told = None
        while not self._ended:
            changed = self._changed  # taken before the status: no change can be missed in between
            status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
            if status != told:
                await context.write(_Status(status=status))
                told = status
            await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down: try another")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
