"""What is asked of the CUDA runtime, and what its answers mean: with one that does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service import cuda
from service.cuda import Cuda
from service.errors import OutOfMemory


class Runtime:
    """Every call succeeds and is written down, unless it is told to fail."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.errors: dict[str, int] = {}
        self.slow = self.quick = self
        self.handles = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self[name]

    def __getitem__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name == "cudaGetErrorName":
                return f"error {arguments[0]}".encode()
            self.called.append(name)
            if arguments and hasattr(arguments[0], "_obj") and hasattr(arguments[0]._obj, "value"):
                self.handles += 1
                arguments[0]._obj.value = self.handles
            return self.errors.get(name, 0)

        return call


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    return fake


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_without_memory_there_is_an_error_of_its_own(runtime: Runtime, exits: list[int]) -> None:
    runtime.errors["cudaMalloc"] = 2
    with pytest.raises(OutOfMemory):
        Cuda(0).allocate(1)
    assert "cudaGetLastError" in runtime.called  # or the next call would be told of it
    assert not exits


def test_other_errors_have_their_names(runtime: Runtime, exits: list[int]) -> None:
    runtime.errors["cudaMemcpyAsync"] = 1
    with pytest.raises(RuntimeError, match="CUDA: error 1"):
        Cuda(0).stream().upload(8, np.zeros(3, np.float32))
    assert not exits


@pytest.mark.parametrize("error", [214, 700, 719])
def test_a_lost_gpu_ends_the_server(runtime: Runtime, exits: list[int], error: int) -> None:
    memory = Cuda(0)
    event = memory.event(brief=True)
    runtime.errors["cudaEventSynchronize"] = error
    with pytest.raises(RuntimeError):
        event.wait()
    assert exits == [1]  # so that whoever runs it starts it again


def test_closed_it_gives_back_all_in_reverse(runtime: Runtime) -> None:
    memory = Cuda(0)
    memory.allocate(8)
    stream = memory.stream()
    memory.event(brief=False)
    stream.recorded(lambda: None)
    runtime.called.clear()
    memory.close()
    assert runtime.called == ["cudaGraphExecDestroy", "cudaEventDestroy", "cudaStreamDestroy", "cudaFree"]
    memory.close()
    assert len(runtime.called) == 4


def test_a_recording_that_fails_is_ended(runtime: Runtime) -> None:
    def work() -> None:
        raise ValueError("the runtime refuses")

    with pytest.raises(RuntimeError, match="the runtime refuses"):
        Cuda(0).stream().recorded(work)
    assert "cudaStreamEndCapture" in runtime.called
    assert "cudaGraphInstantiate" not in runtime.called


def test_a_second_gpu_is_entered_by_each_thread(runtime: Runtime) -> None:
    for index, times in ((0, 0), (1, 1)):
        stream = Cuda(index).stream()
        runtime.called.clear()
        stream.upload(8, np.zeros(3, np.float32))
        assert runtime.called.count("cudaSetDevice") == times
