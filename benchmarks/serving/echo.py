"""The wire's limit in Python: grpc.aio on uvloop that answers every unary call with the same bytes, unseen.

python -m benchmarks.serving.echo --answer-bytes N [--port P]: prints its port. With --port several share one.
Started with the server's own allocator settings: the limit is not made lower than it is.
"""

from __future__ import annotations

import argparse

import grpc
import uvloop

from service.memory import keep_freed_memory


async def _serve(answer: bytes, port: int) -> None:
    async def echo(_request: bytes, _context: object) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(echo)

    class Every(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return handler

    lengths = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=[*lengths, ("grpc.so_reuseport", 1), ("grpc.max_concurrent_streams", 1024)])
    server.add_generic_rpc_handlers((Every(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--answer-bytes", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    keep_freed_memory()
    uvloop.run(_serve(bytes(arguments.answer_bytes), arguments.port))
