"""Ray Serve around onnxruntime. Arguments: the ONNX file, the port of gRPC, one for HTTP, a folder for its sessions.

Its gRPC takes any service: this one's messages are google.protobuf.BytesValue, which need no proto of their own.
"""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import signal
import sys

import grpc
import numpy as np
import onnxruntime
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve


def add_servicer(servicer, server):
    method = grpc.unary_unary_rpc_method_handler(
        servicer.Infer,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Autoencoder", {"Infer": method}),))


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Autoencoder:
    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def run(self, requests):
        inputs = []
        for request in requests:
            output, _, rows = request.partition(b"\n")
            inputs.append((output.decode(), np.frombuffer(rows, np.float32).reshape(-1, 784)))
        wanted = sorted({output for output, _ in inputs})
        rows = np.concatenate([rows for _, rows in inputs])
        values = dict(zip(wanted, self.session.run(wanted, {"input": rows}), strict=True))
        answers, first = [], 0
        for output, rows in inputs:
            answers.append(values[output][first : first + len(rows)].tobytes())
            first += len(rows)
        return answers

    async def Infer(self, request):  # noqa: N802 - gRPC names its methods
        return BytesValue(value=await self.run(request.value))


if __name__ == "__main__":
    path, grpc_port, http_port, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ray then ends its own processes
    ray.init(include_dashboard=False, _temp_dir=folder, object_store_memory=100 << 20)
    serve.start(
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options={"port": grpc_port, "grpc_servicer_functions": ["ray_server.add_servicer"]},
        logging_config={"enable_access_log": False},
    )
    serve.run(Autoencoder.bind(path), blocking=True, logging_config={"enable_access_log": False})
