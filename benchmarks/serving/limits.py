"""The runtime's limit: the published graph on onnxruntime in a process of its own, with nothing around it.

Each line on standard input, {"file": ..., "shape": [...], "outputs": [...], "callers": n, "seconds": s}, is answered
with {"calls_per_second": ..., "p50": microseconds}. One thread a call, as many calls at once as there are callers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort


def main() -> None:
    sessions: dict[str, ort.InferenceSession] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["file"] not in sessions:
            sessions[asked["file"]] = _session(Path(asked["file"]))
        session, outputs = sessions[asked["file"]], asked["outputs"]
        rows = np.random.default_rng(0).random(asked["shape"], dtype=np.float32)
        times: list[list[float]] = [[] for _ in range(asked["callers"])]
        end = time.perf_counter() + asked["seconds"]

        def call(mine: list[float]) -> None:
            while (started := time.perf_counter()) < end:  # noqa: B023
                session.run(outputs, {"input": rows})  # noqa: B023
                mine.append(time.perf_counter() - started)

        session.run(outputs, {"input": rows})
        threads = [threading.Thread(target=call, args=(mine,)) for mine in times]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = sorted(seconds for mine in times for seconds in mine)
        found = {"calls_per_second": len(taken) / asked["seconds"], "p50": taken[len(taken) // 2] * 1e6}
        print(json.dumps(found), flush=True)


def _session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
