"""Triton's Python backend: everything that its dynamic batcher gave, in one run."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import json

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"]["string_value"])
        path = parameters["path"]["string_value"]
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def execute(self, requests):
        batches = [pb_utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        rows = batches[0] if len(batches) == 1 else np.concatenate(batches)
        outputs = dict(zip(wanted, self.session.run(wanted, {"input": rows}), strict=True))
        responses, first = [], 0
        for request, batch in zip(requests, batches, strict=True):
            last = first + len(batch)
            tensors = [pb_utils.Tensor(name, outputs[name][first:last]) for name in request.requested_output_names()]
            responses.append(pb_utils.InferenceResponse(tensors))
            first = last
        return responses
