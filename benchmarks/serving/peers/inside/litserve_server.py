"""LitServe around onnxruntime. Arguments: the ONNX file and a port."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import sys
from typing import Annotated

import litserve
import numpy as np
import onnxruntime
from fastapi import Body, Response


class Autoencoder(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        """A line that names the output, then the rows: raw octets, which its default of JSON has no place for."""
        output, _, rows = request.partition(b"\n")
        return output.decode(), np.frombuffer(rows, np.float32).reshape(-1, 784)

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        wanted = sorted({output for output, _ in inputs})
        rows = np.concatenate([rows for _, rows in inputs])
        values = dict(zip(wanted, self.session.run(wanted, {"input": rows}), strict=True))
        answers, first = [], 0
        for output, rows in inputs:
            answers.append(values[output][first : first + len(rows)])
            first += len(rows)
        return answers

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Autoencoder(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=2,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=2,
        log_level="warning",
        generate_client_file=False,
    )
