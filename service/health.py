"""grpc.health.v1: which names say what, and watches that end when the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

SERVICE: str = health.SERVICE_NAME
_READY = ""
_LIVE = "liveness"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Readiness under "", each service's name and model/<name>; "liveness" stays SERVING to the end, or the kubelet
    would cut the drain short."""

    def __init__(self, services: Iterable[str], models: Iterable[str]) -> None:
        super().__init__()
        self._names = (_READY, *services, *(f"model/{name}" for name in models))
        self._ending = asyncio.Event()

    async def serving(self) -> None:
        await self.set(_LIVE, _SERVING)
        for name in self._names:
            await self.set(name, _SERVING)

    async def not_serving(self) -> None:
        for name in self._names:
            await self.set(name, _NOT_SERVING)

    def end_watches(self) -> None:
        """A watch has no end of its own: the server would wait for it all through its grace period."""
        self._ending.set()

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        watch = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((watch, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            ending.cancel()
        if self._ending.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down: try another")
        await watch
