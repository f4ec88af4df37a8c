from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service import session
from service.devices import CPU, CUDA, Device
from service.errors import OutOfMemory
from service.session import Options, Session
from service.start import StartError
from tests.artefacts import Linear

GRAPH = Linear.random().graphs()["encoder.onnx"]
ROWS = np.random.default_rng(0).random((7, 4), dtype=np.float32)


class Small:
    """An onnxruntime that has memory for so many rows."""

    def __init__(self, real: Any, most: int) -> None:
        self._real, self._most = real, most
        self.ran: list[int] = []

    def run(self, outputs: Sequence[str], feeds: dict[str, np.ndarray]) -> Any:
        (rows,) = feeds.values()
        self.ran.append(len(rows))
        if len(rows) > self._most:
            raise RuntimeError("BFCArena::AllocateRawInternal Available memory of 4 is smaller")
        return self._real.run(outputs, feeds)


def test_a_session_that_is_not_where_it_was_asked_for_is_no_session() -> None:
    """onnxruntime falls back to the CPU without an exception: the provider it really gave is looked at."""
    if "CUDAExecutionProvider" in session.ort.get_available_providers():
        pytest.skip("a CUDA runtime is present: this is about its absence")
    with pytest.raises(StartError, match="did not give CUDAExecutionProvider"):
        Session(GRAPH, Device(CUDA), Options())


def test_what_does_not_fit_into_memory_is_run_in_parts() -> None:
    opened = Session(GRAPH, Device(CPU), Options())
    expected = opened.run(ROWS, ["embedding"])
    opened._session = small = Small(opened._session, 2)
    np.testing.assert_allclose(opened.run(ROWS, ["embedding"])["embedding"], expected["embedding"], rtol=1e-6)
    assert max(small.ran) == 7
    assert sum(rows for rows in small.ran if rows <= 2) == 7
    opened._session = Small(opened._session, 0)
    with pytest.raises(OutOfMemory, match="no memory left"):
        opened.run(ROWS, ["embedding"])


def test_other_failures_are_not_tried_again() -> None:
    opened = Session(GRAPH, Device(CPU), Options())
    with pytest.raises(Exception, match="Invalid"):
        opened.run(ROWS, ["nothing of the kind"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), {"device_id": "1", "use_tf32": "0"}),
        (Options(tf32=True), {"use_tf32": "1"}),
        (Options(memory_bytes=2**30), {"gpu_mem_limit": str(2**30)}),
    ],
)
def test_a_gpu_is_told_what_to_do_and_leave(options: Options, expected: dict[str, str]) -> None:
    given = session._provider_options(Device(CUDA, 1), options, stream=0)
    assert given.items() >= expected.items()
    assert ("gpu_mem_limit" in given) == bool(options.memory_bytes)
    assert "user_compute_stream" not in given
    assert session._provider_options(Device(CUDA), options, stream=77)["user_compute_stream"] == "77"
