"""Single rows from one process of tritonclient.grpc.aio. Arguments: address, concurrency, seconds. Prints rows/s."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import asyncio
import json
import sys
import time

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput


async def main(address, concurrency, seconds):
    row = np.random.default_rng(0).standard_normal((1, 784)).astype(np.float32)
    wanted = [InferRequestedOutput("score")]
    counted, begin = 0, time.monotonic() + 1  # a second to warm up
    end = begin + seconds

    async def caller(client):
        nonlocal counted
        while time.monotonic() < end:
            tensor = InferInput("input", row.shape, "FP32")
            tensor.set_data_from_numpy(row)
            answer = await client.infer(
                "model", [tensor], outputs=wanted, client_timeout=5
            )  # a call that hangs is an error
            answer.as_numpy("score")
            counted += begin <= time.monotonic() < end

    async with InferenceServerClient(address) as client:
        await asyncio.gather(*(caller(client) for _ in range(concurrency)))
    print(json.dumps(counted / seconds))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
