"""KServe's own model server around onnxruntime. Arguments: the ONNX file, the port of gRPC, one for HTTP."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import logging
import sys

import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer


class Autoencoder(Model):
    def __init__(self, path):
        super().__init__("model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        wanted = [output.name for output in payload.request_outputs]
        arrays = self.session.run(wanted, {"input": payload.inputs[0].as_numpy()})
        outputs = []
        for name, array in zip(wanted, arrays, strict=True):
            output = InferOutput(name=name, shape=list(array.shape), datatype="FP32")
            output.set_data_from_numpy(array)
            outputs.append(output)
        return InferResponse(payload.id, "model", outputs, use_binary_outputs=True)


if __name__ == "__main__":
    path, grpc_port, http_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    server = ModelServer(grpc_port=grpc_port, http_port=http_port, enable_latency_logging=False)
    logging.getLogger("kserve").setLevel(logging.WARNING)  # else a line a call
    server.start([Autoencoder(path)])
