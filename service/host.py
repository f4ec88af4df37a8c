"""The processor's own memory where a GPU's is expected: what a GPU is served with can be run without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np


class Event:
    """A place in a stream."""

    def __init__(self) -> None:
        self.at = 0.0

    def wait(self) -> None:
        pass

    def seconds_since(self, earlier: Event) -> float:
        return self.at - earlier.at


class Stream:
    """Work is done at once."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def address(self) -> int:
        return 0

    def upload(self, target: int, values: np.ndarray) -> None:
        self._host.at(target, values.shape)[:] = values

    def download(self, values: np.ndarray, source: int) -> None:
        values[:] = self._host.at(source, values.shape)

    fetch = download

    def mark(self, event: Event) -> None:
        event.at = time.perf_counter()

    def after(self, event: Event) -> None:
        pass

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work


class Host:
    """Memory by its address, as a GPU's."""

    def __init__(self) -> None:
        self._buffers: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        buffer = np.full(size, 0xFF, np.uint8)  # NaN: as little to rely on as what a GPU gives
        self._buffers[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def at(self, address: int, shape: Sequence[int]) -> np.ndarray:
        """float32, what is there from the address on."""
        values = self._buffers[address].view(np.float32)
        return values[: int(np.prod(shape))].reshape(shape)

    def pinned(self, shape: Sequence[int]) -> np.ndarray:
        return np.empty(shape, np.float32)

    def stream(self) -> Stream:
        return Stream(self)

    def event(self, *, brief: bool) -> Event:
        return Event()

    def used(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def close(self) -> None:
        self._buffers.clear()
