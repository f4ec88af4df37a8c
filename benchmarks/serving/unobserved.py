"""hourglass-serve without metrics and error mapping: the difference is what these cost."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import grpc

from service import batcher, interceptors
from service.__main__ import main


class _Bare(interceptors.Guard):
    """Announces calls, for that is how batches form, and does nothing else."""

    def _guard(self, method: str, handler: grpc.RpcMethodHandler, *, named: bool) -> grpc.RpcMethodHandler:
        answer_to = handler.unary_unary

        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self._arrivals.arrived()
            return await answer_to(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=handler.request_deserializer,
            response_serializer=interceptors._serialize,
        )


class _Silent:
    def batch(self, *_arguments: object) -> None: ...

    def rejected(self, *_arguments: object) -> None: ...

    def ended(self, *_arguments: object) -> None: ...


class _Unobserved(batcher.Batcher):
    def __init__(self, run: Any, costs: Any, _observer: Any, *rest: Any) -> None:
        super().__init__(run, costs, _Silent(), *rest)


if __name__ == "__main__":
    modules: dict[str, Any] = {name: import_module(f"service.{name}") for name in ("scoring", "loading", "server")}
    modules["server"].Guard = _Bare
    modules["loading"].Batcher = _Unobserved
    modules["scoring"].count = lambda *_arguments: None
    sys.exit(main())
