"""Batches on a GPU: at a few fixed sizes, from buffers that are bound once, as work that was recorded once.

A GPU is slow to begin whatever it has not run before, and starting the kernels of a batch one by one takes longer than
most batches compute. So batches are padded to a few sizes, each of which was run and recorded before the model is
ready; recorded, it starts with one call. Rows are copied to the GPU while the batch before is computed, from memory
that it reads by itself, and of the outputs only those asked for come back.

    instance  a session, and the stream in which it computes: one batch after another
    slot      buffers of one batch on its way, and a stream for its copies; several share an instance
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from service.costs import Costs
from service.devices import CPU
from service.errors import OutOfMemory
from service.pieces import Answer
from service.session import PROVIDERS, Session

log = logging.getLogger(__name__)

OpenSession = Callable[[int], Session]

# To copy rows to where the GPU reads them takes a core longer than computing them takes the GPU, and so does handing a
# batch to a thread and back. Few of the batches on their way are not full: with fewer, larger ones form.
SLOTS, GREEDY = 8, 2

_FLOAT = np.dtype(np.float32).itemsize
# A batch that is sooner done is waited for without letting go of the core: to be woken takes 35 µs.
_BRIEF_SECONDS = 3e-4
# Bytes that are sooner copied than another stream is waited for.
_LITTLE = 2**16
# A GPU that was idle runs slowly for its first moments, and would be measured so.
_WARM_SECONDS = 0.03
# Rows whose answers are compared, recorded and not.
_TRIED = 16
# The recorded work is the same work, so that its numbers are: parallel sums may differ in the last bits.
_ATOL, _RTOL = 1e-6, 1e-5


class Event(Protocol):
    """A place in a stream."""

    def wait(self) -> None:
        """Until all before it is done."""

    def seconds_since(self, earlier: Any) -> float:
        """Both must be done."""


class Stream(Protocol):
    """Work that a device does in order."""

    @property
    def address(self) -> int: ...
    def upload(self, target: int, values: np.ndarray) -> None:
        """values: in memory from Memory.pinned, and left alone until it is done."""

    def download(self, values: np.ndarray, source: int) -> None:
        """values: likewise."""

    def fetch(self, values: np.ndarray, source: int) -> None:
        """Into whatever memory, and not before it is there."""

    def mark(self, event: Any) -> None: ...
    def after(self, event: Any) -> None:
        """What comes is begun when the event is done."""

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` gives to this stream, to be given again as one. Raises RuntimeError where that cannot be."""


class Memory(Protocol):
    """A device's memory."""

    def allocate(self, size: int) -> int:
        """Bytes -> address. Raises OutOfMemory."""

    def pinned(self, shape: Sequence[int]) -> np.ndarray:
        """float32, in the host's memory, to and from which the device copies by itself. Raises OutOfMemory."""

    def stream(self) -> Stream: ...
    def event(self, *, brief: bool) -> Event:
        """brief: who waits for it does not let go of the core."""

    def used(self) -> int:
        """Bytes that are taken on the device, whoever took them."""

    def close(self) -> None:
        """All that it gave out is gone."""


class Instance:
    def __init__(self, open_session: OpenSession, stream: Stream) -> None:
        self.stream = stream
        self.session = open_session(stream.address)
        self.placement = self.session.placement()

    @property
    def mixed(self) -> bool:
        """Whether some nodes are not on the device."""
        return PROVIDERS[CPU] in self.placement


class Slot:
    """Room for one batch of up to `most` rows."""

    def __init__(self, instance: Instance, memory: Memory, most: int) -> None:
        """Raises OutOfMemory."""
        self._instance = instance
        self._copies = memory.stream()
        session = instance.session
        (self._input,) = session.inputs
        self._shapes = {name: _of_a_row(shape) for name, (_, shape) in (session.inputs | session.outputs).items()}
        self._addresses = {
            name: memory.allocate(most * math.prod(shape) * _FLOAT) for name, shape in self._shapes.items()
        }
        self._rows = memory.pinned((most, *self._shapes[self._input]))
        # Outputs of one number a row come with every batch, the others when they are asked for.
        self._numbers = {name: memory.pinned((most,)) for name in session.outputs if not self._shapes[name]}
        self._uploaded, self._begun = memory.event(brief=True), memory.event(brief=True)
        self._computed = {brief: memory.event(brief=brief) for brief in (True, False)}
        self._work: dict[int, Callable[[], None]] = {}
        self._brief: dict[int, bool] = {}
        self.busy_seconds = 0.0

    @property
    def outputs(self) -> Sequence[str]:
        return tuple(self._instance.session.outputs)

    def timed(self, rows: np.ndarray, size: int) -> None:
        """Runs so many of them as a call that asks for numbers would, where there are such."""
        if size not in self._work:
            self.prepare(size, rows)
        self.run(rows[:size], tuple(self._numbers) or self.outputs, size)

    def prepare(self, size: int, rows: np.ndarray) -> bool:
        """Run and record batches of a size. Returns whether the recorded work does what the session did with these
        rows; otherwise the session is run each time. Raises OutOfMemory."""
        stream, addresses, numbers = self._instance.stream, self._addresses, self._numbers
        compute = self._instance.session.bound(size, addresses)

        def run() -> None:  # without the slot, which would keep itself and its session alive
            compute()
            for name, values in numbers.items():
                stream.download(values[:size], addresses[name])

        self._work[size] = run
        tried = rows[:_TRIED]
        one, other = tried[:size], tried[::-1][:size]
        self.run(other, self.outputs, size)  # takes its memory, and chooses its kernels
        if self._instance.mixed:
            return False  # what the processor does between kernels would not be recorded
        expected = self.run(one, self.outputs, size)
        try:
            recorded = self._instance.stream.recorded(run)
        except RuntimeError as error:
            log.warning("batches of %d rows cannot be recorded: %s", size, error)
            return False
        self.run(other, self.outputs, size)
        self._work[size] = recorded
        found = self.run(one, self.outputs, size)
        if all(np.allclose(found[name], expected[name], _RTOL, _ATOL, equal_nan=True) for name in expected):
            return True
        log.warning("batches of %d rows compute something else when they are recorded", size)
        self._work[size] = run
        return False

    def expect(self, costs: Costs) -> None:
        """How long batches of each size take."""
        self._brief = {size: costs.expect(size) < _BRIEF_SECONDS for size in costs.rows}

    def run(self, rows: np.ndarray, outputs: Sequence[str], size: int) -> Answer:
        """rows: float32 [n, ...], n <= size, a size that was prepared -> each asked output, float32 [n, ...]."""
        count, copies, compute = len(rows), self._copies, self._instance.stream
        computed = self._computed[self._brief.get(size, False)]
        self._rows[:count] = rows
        if rows.nbytes <= _LITTLE:
            compute.upload(self._addresses[self._input], self._rows[:count])
        else:
            copies.upload(self._addresses[self._input], self._rows[:count])
            copies.mark(self._uploaded)
            compute.after(self._uploaded)
        compute.mark(self._begun)
        self._work[size]()
        compute.mark(computed)
        computed.wait()
        self.busy_seconds += computed.seconds_since(self._begun)
        return {name: self._answer(name, count) for name in outputs}

    def _answer(self, name: str, count: int) -> np.ndarray:
        if name in self._numbers:
            return self._numbers[name][:count].copy()
        values = np.empty((count, *self._shapes[name]), np.float32)
        self._copies.fetch(values, self._addresses[name])
        return values


def _of_a_row(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(size for size in shape[1:] if isinstance(size, int))


class Lanes:
    """A graph at a few sizes, on several instances and slots. `run` may be called from several threads."""

    def __init__(
        self,
        open_session: OpenSession,
        open_memory: Callable[[], Memory],
        rows: np.ndarray,
        *,
        most: int,
        instances: int,
        slots: int,
    ) -> None:
        """open_session: given the address of a stream to work in. rows: to try it with, float32 [m, ...]. most: rows
        of one batch, if there is memory for so many. Raises OutOfMemory when there is none for one row.

        costs: the sizes, and how long each takes. recorded: whether all are. nodes: how many each execution provider
        got. memory_bytes: taken on the device.
        """
        self._slots: list[Slot] = []
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self.recorded = False
        self.nodes: Mapping[str, int] = {}
        while True:
            try:
                self.costs = _measured(open_session, open_memory(), rows, most)
                most = self.costs.rows[-1]
                self._open(open_session, open_memory(), rows, instances, slots)
                break
            except OutOfMemory:
                if most == 1:
                    raise
                most //= 2

    def _open(self, open_session: OpenSession, memory: Memory, rows: np.ndarray, instances: int, slots: int) -> None:
        self._memory, before = memory, memory.used()
        try:
            self._prepare(open_session, rows, instances, slots)
        except BaseException as error:
            # What its frames hold of sessions goes before their memory does.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise
        self.memory_bytes = memory.used() - before

    def _prepare(self, open_session: OpenSession, rows: np.ndarray, instances: int, slots: int) -> None:
        memory, sizes = self._memory, self.costs.rows
        opened = [Instance(open_session, memory.stream()) for _ in range(min(instances, slots))]
        self._slots = [Slot(opened[i % len(opened)], memory, sizes[-1]) for i in range(slots)]
        # Smaller ones fit into the memory of the largest.
        prepared = [slot.prepare(size, rows) for size in reversed(sizes) for slot in self._slots]
        self.recorded = all(prepared)
        if opened[0].mixed:
            log.warning("some nodes are not run on the GPU: %s", dict(opened[0].placement[PROVIDERS[CPU]]))
        for slot in self._slots:
            slot.expect(self.costs)
            self._free.put(slot)
        self.nodes = {provider: sum(kinds.values()) for provider, kinds in opened[0].placement.items()}

    @property
    def busy_seconds(self) -> float:
        """For so long its batches were computed; those of several instances overlap."""
        return sum(slot.busy_seconds for slot in self._slots)

    def run(self, rows: np.ndarray, outputs: Sequence[str]) -> Answer:
        """rows: float32 [n, ...] -> each asked output, float32 [n, ...]."""
        most = self.costs.rows[-1]
        parts = [self._run(rows[start : start + most], outputs) for start in range(0, len(rows), most)]
        return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in outputs}

    def close(self) -> None:
        """Nothing may be running."""
        self._slots = []
        self._free = SimpleQueue()
        self._memory.close()

    def _run(self, rows: np.ndarray, outputs: Sequence[str]) -> Answer:
        slot = self._free.get()
        try:
            return slot.run(rows, outputs, self.costs.size(len(rows)))
        finally:
            self._free.put(slot)


def _measured(open_session: OpenSession, memory: Memory, rows: np.ndarray, most: int) -> Costs:
    """A few sizes up to `most`, or to what there is memory for; measured with a session that is then gone."""

    def measured() -> Costs:
        slot = Slot(Instance(open_session, memory.stream()), memory, most)
        many = np.resize(rows, (most, *rows.shape[1:]))
        warm = time.perf_counter() + _WARM_SECONDS
        while time.perf_counter() < warm:
            slot.timed(many, 1)
        return Costs.measure(lambda size: slot.timed(many, size), most).few()

    try:
        return measured()  # and its session is closed before its memory is
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        memory.close()
