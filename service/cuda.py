"""An NVIDIA GPU's memory, streams, events and recorded work, by the CUDA runtime that onnxruntime itself uses.

Called through ctypes: NVIDIA's Python bindings let go of the interpreter in every call, and with several threads each
call then waits for it as long as for the GPU. Here only calls that wait for the GPU do.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
from collections.abc import Callable, Sequence
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cache, partial

import numpy as np

from service.devices import cuda_runtime
from service.errors import OutOfMemory

log = logging.getLogger(__name__)

_SUCCESS, _NO_MEMORY = 0, 2
# Memory that failed, a kernel that read what it may not: from then on every call of this process fails.
_LOST = frozenset({214, 220, 700, 702, 710, *range(714, 720)})
_TO_DEVICE, _TO_HOST = c_int(1), c_int(2)
_NON_BLOCKING = c_uint(1)  # our streams do not wait for what others do in CUDA's default one
_SLEEPING = 1  # who waits for such an event lets go of the core
_OF_THIS_THREAD = c_int(1)  # other threads' work on this GPU goes on while one records


class _Runtime:
    """Functions by name. `quick` ones come back at once, and keep the interpreter; `slow` ones let others have it."""

    def __init__(self) -> None:
        self.slow = ctypes.CDLL(cuda_runtime())
        self.quick = ctypes.PyDLL(cuda_runtime())
        self.slow.cudaGetErrorName.restype = ctypes.c_char_p


@cache
def _runtime() -> _Runtime:
    return _Runtime()


def _check(error: int) -> None:
    """Raises OutOfMemory, RuntimeError. A GPU that is lost ends the process, to be started anew: its callers' calls are
    better unavailable, and tried elsewhere, than failures."""
    if error == _SUCCESS:
        return
    _runtime().slow.cudaGetLastError()  # it is told once
    if error == _NO_MEMORY:
        raise OutOfMemory("the GPU has no memory left: send fewer rows at once, or retry")
    name = _runtime().slow.cudaGetErrorName(error).decode()
    if error in _LOST:
        log.critical("the GPU fails every call from now on (%s): the server ends", name)
        os._exit(1)
    raise RuntimeError(f"CUDA: {name}")


class Event:
    """A place in a stream."""

    def __init__(self, handle: c_void_p) -> None:
        self.handle = handle

    def wait(self) -> None:
        _check(_runtime().slow.cudaEventSynchronize(self.handle))

    def seconds_since(self, earlier: Event) -> float:
        milliseconds = c_float()
        _check(_runtime().quick.cudaEventElapsedTime(byref(milliseconds), earlier.handle, self.handle))
        return milliseconds.value / 1e3


class Stream:
    """Work that the GPU does in order."""

    def __init__(self, memory: Cuda, handle: c_void_p) -> None:
        self._memory, self._handle = memory, handle

    @property
    def address(self) -> int:
        return self._handle.value or 0

    def upload(self, target: int, values: np.ndarray) -> None:
        self._memory.enter()
        _check(_copy(_runtime().quick, target, values.ctypes.data, values.nbytes, _TO_DEVICE, self._handle))

    def download(self, values: np.ndarray, source: int) -> None:
        _check(_copy(_runtime().quick, values.ctypes.data, source, values.nbytes, _TO_HOST, self._handle))

    def fetch(self, values: np.ndarray, source: int) -> None:
        _check(_copy(_runtime().slow, values.ctypes.data, source, values.nbytes, _TO_HOST, self._handle))
        _check(_runtime().slow.cudaStreamSynchronize(self._handle))

    def mark(self, event: Event) -> None:
        _check(_runtime().quick.cudaEventRecord(event.handle, self._handle))

    def after(self, event: Event) -> None:
        _check(_runtime().quick.cudaStreamWaitEvent(self._handle, event.handle, c_uint(0)))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        runtime, graph, ready = _runtime(), c_void_p(), c_void_p()
        _check(runtime.slow.cudaStreamBeginCapture(self._handle, _OF_THIS_THREAD))
        try:
            work()
        except Exception as error:
            runtime.slow.cudaStreamEndCapture(self._handle, byref(graph))
            runtime.slow.cudaGetLastError()
            raise RuntimeError(str(error)) from error
        _check(runtime.slow.cudaStreamEndCapture(self._handle, byref(graph)))
        try:
            _check(runtime.slow.cudaGraphInstantiate(byref(ready), graph, c_ulonglong(0)))
            self._memory.owns("cudaGraphExecDestroy", ready)
        finally:
            runtime.slow.cudaGraphDestroy(graph)
        return lambda: _check(runtime.quick.cudaGraphLaunch(ready, self._handle))


def _copy(library: ctypes.CDLL, target: int, source: int, size: int, direction: c_int, stream: c_void_p) -> int:
    error: int = library.cudaMemcpyAsync(c_void_p(target), c_void_p(source), c_size_t(size), direction, stream)
    return error


class Cuda:
    """One GPU. Closed, it takes back all that it gave out."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._owned: list[Callable[[], object]] = []
        _check(_runtime().slow.cudaSetDevice(c_int(index)))

    def enter(self) -> None:
        """A thread's GPU is the first one, unless it says so."""
        if self._index:
            _check(_runtime().quick.cudaSetDevice(c_int(self._index)))

    def owns(self, release: str, handle: c_void_p) -> c_void_p:
        """It is given back by the function of this name."""
        self._owned.append(partial(_runtime().slow[release], handle))
        return handle

    def allocate(self, size: int) -> int:
        address = c_void_p()
        _check(_runtime().slow.cudaMalloc(byref(address), c_size_t(size)))
        return self.owns("cudaFree", address).value or 0

    def pinned(self, shape: Sequence[int]) -> np.ndarray:
        address = c_void_p()
        size = math.prod(shape) * ctypes.sizeof(c_float)
        _check(_runtime().slow.cudaHostAlloc(byref(address), c_size_t(size), c_uint(0)))
        self.owns("cudaFreeHost", address)
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(c_float)), tuple(shape))

    def stream(self) -> Stream:
        handle = c_void_p()
        _check(_runtime().slow.cudaStreamCreateWithFlags(byref(handle), _NON_BLOCKING))
        return Stream(self, self.owns("cudaStreamDestroy", handle))

    def event(self, *, brief: bool) -> Event:
        handle = c_void_p()
        _check(_runtime().slow.cudaEventCreateWithFlags(byref(handle), c_uint(0 if brief else _SLEEPING)))
        return Event(self.owns("cudaEventDestroy", handle))

    def used(self) -> int:
        free, total = c_size_t(), c_size_t()
        _check(_runtime().slow.cudaMemGetInfo(byref(free), byref(total)))
        return total.value - free.value

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.enter()
        while self._owned:
            self._owned.pop()()
