"""Single rows from one process of KServe's client. Arguments: address, concurrency, seconds. Prints rows/s."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import asyncio
import json
import sys
import time

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.infer_type import RequestedOutput


async def main(address, concurrency, seconds):
    row = np.random.default_rng(0).standard_normal((1, 784)).astype(np.float32)
    wanted = [RequestedOutput("score")]
    client = InferenceGRPCClient(address, timeout=5)  # a call that hangs is an error
    counted, begin = 0, time.monotonic() + 1  # a second to warm up
    end = begin + seconds

    async def caller():
        nonlocal counted
        while time.monotonic() < end:
            tensor = InferInput("input", list(row.shape), "FP32")
            tensor.set_data_from_numpy(row)
            answer = await client.infer(InferRequest("model", [tensor], request_outputs=wanted))
            answer.outputs[0].as_numpy()
            counted += begin <= time.monotonic() < end

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    await client.close()
    print(json.dumps(counted / seconds))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
