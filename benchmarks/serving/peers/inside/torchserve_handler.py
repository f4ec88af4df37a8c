"""TorchServe's custom handler around onnxruntime: the requests of a batch in one run."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import numpy as np
import onnxruntime

session = None


def handle(requests, context):
    """requests: for each a map of what its caller sent. None when the worker starts."""
    global session
    if session is None:
        settings = context.model_yaml_config["handler"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings["threads"]
        session = onnxruntime.InferenceSession(settings["path"], options, ["CPUExecutionProvider"])
    if requests is None:
        return None
    batches = [np.frombuffer(request["rows"], np.float32).reshape(-1, 784) for request in requests]
    outputs = [bytes(request["output"]).decode() for request in requests]
    wanted = sorted(set(outputs))
    values = dict(zip(wanted, session.run(wanted, {"input": np.concatenate(batches)}), strict=True))
    answers, first = [], 0
    for batch, output in zip(batches, outputs, strict=True):
        answers.append(values[output][first : first + len(batch)].tobytes())
        first += len(batch)
    return answers
