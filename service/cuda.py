"""An NVIDIA GPU's memory, streams, events and recorded work, through NVIDIA's own bindings."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from cuda.bindings import runtime

from service.errors import OutOfMemory

_TO_DEVICE = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
_TO_HOST = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
# Our streams do not wait for what others do in CUDA's default one.
_NON_BLOCKING = 1
# Work of other threads on this GPU goes on while one records.
_OF_THIS_THREAD = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
# Who waits for such an event lets go of the core.
_SLEEPING = runtime.cudaEventBlockingSync


def _checked(returned: tuple[Any, ...]) -> Any:
    """What a call gave back beside its error, one value or a tuple. Raises OutOfMemory, RuntimeError."""
    error, *values = returned
    if error == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise OutOfMemory("the GPU has no memory left: send fewer rows at once, or retry")
    if error != runtime.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if len(values) == 1 else tuple(values)


class Event:
    """A place in a stream."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def seconds_since(self, earlier: Event) -> float:
        milliseconds: float = _checked(runtime.cudaEventElapsedTime(earlier.handle, self.handle))
        return milliseconds / 1e3


class Stream:
    """Work that the GPU does in order."""

    def __init__(self, memory: Cuda, handle: Any, end: Any) -> None:
        self._memory, self._handle, self._end = memory, handle, end

    @property
    def address(self) -> int:
        return int(self._handle)

    def upload(self, target: int, values: np.ndarray) -> None:
        self._memory.enter()
        _checked(runtime.cudaMemcpyAsync(target, values.ctypes.data, values.nbytes, _TO_DEVICE, self._handle))

    def download(self, values: np.ndarray, source: int) -> None:
        _checked(runtime.cudaMemcpyAsync(values.ctypes.data, source, values.nbytes, _TO_HOST, self._handle))

    def mark(self, event: Event) -> None:
        _checked(runtime.cudaEventRecord(event.handle, self._handle))

    def after(self, event: Event) -> None:
        _checked(runtime.cudaStreamWaitEvent(self._handle, event.handle, 0))

    def finish(self, *, brief: bool) -> None:
        if brief:
            _checked(runtime.cudaStreamSynchronize(self._handle))
        else:
            _checked(runtime.cudaEventRecord(self._end, self._handle))
            _checked(runtime.cudaEventSynchronize(self._end))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        _checked(runtime.cudaStreamBeginCapture(self._handle, _OF_THIS_THREAD))
        try:
            work()
        except Exception as error:
            runtime.cudaStreamEndCapture(self._handle)
            raise RuntimeError(str(error)) from error
        graph = _checked(runtime.cudaStreamEndCapture(self._handle))
        ready = self._memory.owned(runtime.cudaGraphExecDestroy, runtime.cudaGraphInstantiate(graph, 0))
        _checked(runtime.cudaGraphDestroy(graph))
        return lambda: _checked(runtime.cudaGraphLaunch(ready, self._handle))


class Cuda:
    """One GPU. Closed, it takes back all that it gave out."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._owned: list[Callable[[], object]] = []
        _checked(runtime.cudaSetDevice(index))

    def enter(self) -> None:
        """A thread's device is the first one, unless it says so."""
        if self._index:
            _checked(runtime.cudaSetDevice(self._index))

    def owned(self, release: Callable[[Any], object], created: tuple[Any, ...]) -> Any:
        handle = _checked(created)
        self._owned.append(partial(release, handle))
        return handle

    def allocate(self, size: int) -> int:
        return int(self.owned(runtime.cudaFree, runtime.cudaMalloc(size)))

    def pinned(self, shape: Sequence[int]) -> np.ndarray:
        size = math.prod(shape) * ctypes.sizeof(ctypes.c_float)
        address = int(self.owned(runtime.cudaFreeHost, runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)))
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), tuple(shape))

    def stream(self) -> Stream:
        handle = self.owned(runtime.cudaStreamDestroy, runtime.cudaStreamCreateWithFlags(_NON_BLOCKING))
        return Stream(self, handle, self.owned(runtime.cudaEventDestroy, runtime.cudaEventCreateWithFlags(_SLEEPING)))

    def event(self) -> Event:
        return Event(self.owned(runtime.cudaEventDestroy, runtime.cudaEventCreate()))

    def used(self) -> int:
        free, total = _checked(runtime.cudaMemGetInfo())
        return int(total - free)

    def close(self) -> None:
        self.enter()
        while self._owned:
            self._owned.pop()()
