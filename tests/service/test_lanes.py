"""Lanes, with the processor's memory in the place of a GPU's."""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hourglass.contract import layout
from hourglass.contract.manifest import DECODER, GRAPHS, MODEL
from service import host
from service.devices import CPU, Device
from service.errors import OutOfMemory
from service.host import Host
from service.lanes import Lanes
from service.proving import Opener
from service.session import Options, Session
from tests import artefacts
from tests.artefacts import Linear

WIDTH = 4
LINEAR = Linear.random(WIDTH)
GRAPH = LINEAR.graphs()[MODEL]
ROWS = np.random.default_rng(0).random((100, WIDTH), dtype=np.float32)
PLAIN = Session(GRAPH, Device(CPU), Options())
OUTPUTS = tuple(PLAIN.outputs)
MOST = 16


def opened(memory: Callable[[], Any] = Host, session: Callable[[int], Any] | None = None, **sizes: int) -> Lanes:
    open_session = session or (lambda _stream: Session(GRAPH, Device(CPU), Options()))
    return Lanes(open_session, memory, ROWS[:5], **{"most": MOST, "instances": 2, "slots": 4, **sizes})


@pytest.fixture(scope="module")
def lanes() -> Iterator[Lanes]:
    lanes = opened()
    yield lanes
    lanes.close()


def assert_answers(answer: Mapping[str, np.ndarray], rows: np.ndarray, outputs: Sequence[str] = OUTPUTS) -> None:
    expected = PLAIN.run(rows, outputs)
    assert answer.keys() == expected.keys()
    for name in outputs:
        np.testing.assert_allclose(answer[name], expected[name], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(
    rows=st.integers(1, 100),
    start=st.integers(0, 99),
    outputs=st.lists(st.sampled_from(OUTPUTS), min_size=1, unique=True),
)
def test_lanes_answer_as_the_session_does(lanes: Lanes, rows: int, start: int, outputs: list[str]) -> None:
    """Whatever was in the buffers before, and with more rows than the largest batch."""
    some = np.roll(ROWS, start, axis=0)[:rows]
    assert_answers(lanes.run(some, outputs), some, outputs)


def test_many_threads_get_their_own_answers(lanes: Lanes) -> None:
    failed = []

    def ask(seed: int) -> None:
        draws = np.random.default_rng(seed)
        try:
            for _ in range(50):
                some = draws.random((int(draws.integers(1, MOST)), WIDTH), dtype=np.float32)
                assert_answers(lanes.run(some, OUTPUTS), some)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


class Spied(Host):
    """Counts what is copied, in numbers."""

    up, down = Counter[int](), Counter[int]()

    def stream(self) -> Any:
        spied = self

        class Stream(host.Stream):
            def upload(self, target: int, values: np.ndarray) -> None:
                spied.up[values.size] += 1
                super().upload(target, values)

            def download(self, values: np.ndarray, source: int) -> None:
                assert values.ndim == 1  # one number a row
                super().download(values, source)

            def fetch(self, values: np.ndarray, source: int) -> None:
                spied.down[values.size] += 1
                super().download(values, source)

        return Stream(self)


def test_rows_go_up_once_and_only_what_was_asked_comes_back() -> None:
    lanes = opened(Spied)
    Spied.up.clear()
    Spied.down.clear()
    lanes.run(ROWS[:3], ["score"])
    assert Spied.up == {3 * WIDTH: 1}  # not the padded batch
    assert not Spied.down
    lanes.run(ROWS[:3], ["score", "reconstruction"])
    assert Spied.down == {3 * WIDTH: 1}


class Faulty(Host):
    """Recording it makes something of the work that was not meant."""

    def __init__(self, fault: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        super().__init__()
        self._fault = fault

    def stream(self) -> Any:
        fault = self._fault

        class Stream(host.Stream):
            def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
                return fault(work)

        return Stream(self)


def nothing(_work: Callable[[], None]) -> Callable[[], None]:
    return lambda: None


def impossible(_work: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("fault", "said"), [(nothing, "compute something else"), (impossible, "cannot be recorded")])
def test_work_that_cannot_be_recorded_is_given_anew_each_time(
    fault: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    lanes = opened(lambda: Faulty(fault))
    assert not lanes.recorded
    assert said in caplog.text
    assert_answers(lanes.run(ROWS[:7], OUTPUTS), ROWS[:7])


def test_recorded_work_is_used(lanes: Lanes) -> None:
    calls = Counter[str]()

    def counted(work: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            calls["replayed"] += 1
            work()

        return replay

    recording = opened(lambda: Faulty(counted))
    assert recording.recorded
    calls.clear()
    assert_answers(recording.run(ROWS[:7], OUTPUTS), ROWS[:7])
    assert calls["replayed"] == 1


def test_nodes_on_the_processor_are_said_and_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    class Mixed(Session):
        def placement(self) -> Mapping[str, Mapping[str, int]]:
            return {"CUDAExecutionProvider": {"Gemm": 3}, "CPUExecutionProvider": {"Unique": 1}}

    with caplog.at_level(logging.WARNING):
        lanes = opened(session=lambda _stream: Mixed(GRAPH, Device(CPU), Options()))
    assert "not run on the GPU: {'Unique': 1}" in caplog.text
    assert not lanes.recorded
    assert lanes.nodes == {"CUDAExecutionProvider": 3, "CPUExecutionProvider": 1}
    assert_answers(lanes.run(ROWS[:7], OUTPUTS), ROWS[:7])


class Small(Host):
    """Memory of so many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def allocate(self, size: int) -> int:
        if self.used() + size > self._size:
            raise OutOfMemory("full")
        return super().allocate(size)


def slot_bytes(rows: int) -> int:
    per_row = sum(int(np.prod(shape[1:])) for _, shape in (PLAIN.inputs | PLAIN.outputs).values())
    return 4 * per_row * rows


def test_batches_are_as_large_as_memory_allows() -> None:
    lanes = opened(lambda: Small(slot_bytes(MOST // 2)), slots=1)
    assert lanes.costs.rows[-1] == MOST // 2
    assert lanes.memory_bytes == slot_bytes(MOST // 2)
    assert_answers(lanes.run(ROWS, OUTPUTS), ROWS)


def test_with_more_slots_they_are_smaller() -> None:
    lanes = opened(lambda: Small(slot_bytes(MOST)), slots=4)
    assert 1 <= lanes.costs.rows[-1] <= MOST // 4
    assert_answers(lanes.run(ROWS, OUTPUTS), ROWS)


def test_without_memory_for_a_row_there_is_an_error_and_nothing_is_kept() -> None:
    made: list[Small] = []

    def memory() -> Small:
        made.append(Small(slot_bytes(1) - 1))
        return made[-1]

    with pytest.raises(OutOfMemory):
        opened(memory)
    assert all(small.used() == 0 for small in made)


class Counted(Session):
    alive = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


class Watched(Host):
    """Sees how many sessions are alive when its memory is given back."""

    alive: ClassVar[list[int]] = []

    def close(self) -> None:
        Watched.alive.append(Counted.alive)
        super().close()


def test_sessions_are_gone_before_their_memory_is() -> None:
    """Without the collector: a session that works in a stream which is gone is undefined behaviour on a GPU."""
    gc.disable()
    try:
        Counted.alive, Watched.alive = 0, []
        lanes = opened(Watched, lambda _stream: Counted(GRAPH, Device(CPU), Options()))
        assert Watched.alive == [0]  # of the one that measured
        assert Counted.alive == 2
        lanes.close()
        assert Watched.alive == [0, 0]
    finally:
        gc.enable()


@pytest.mark.parametrize("fault", [RuntimeError("CUDA: illegal"), OutOfMemory("full")])
def test_what_fails_while_it_is_opened_leaves_nothing(fault: Exception) -> None:
    class Failing(Counted):
        def bound(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
            raise fault

    Counted.alive, Watched.alive = 0, []
    gc.disable()
    try:
        with pytest.raises(type(fault)):
            opened(Watched, lambda _stream: Failing(GRAPH, Device(CPU), Options()))
        assert Watched.alive
        assert not any(Watched.alive)
    finally:
        gc.enable()


def test_a_refused_graph_takes_those_that_were_opened_with_it(tmp_path: Path) -> None:
    """The decoder is the last of the three: its golden rows differ."""
    artefacts.publish(tmp_path, "line")
    artefact = layout.read(tmp_path, "line", 1, tuple(GRAPHS))
    made: list[Host] = []

    def memory() -> Host:
        made.append(Host())
        return made[-1]

    opener = Opener(Device(CPU), Options(), 8, memory, instances=1, slots=2)
    proven = opener.open(artefact)
    assert any(memory.used() for memory in made)
    for graph in proven.values():
        assert graph.lanes
        graph.lanes.close()
    files = {**artefact.files, DECODER: artefacts.Linear.random(seed=9).graphs()[DECODER]}
    with pytest.raises(layout.ArtefactError, match="golden rows"):
        opener.open(replace(artefact, files=files))
    assert not any(memory.used() for memory in made)


def test_closed_it_gives_its_memory_back() -> None:
    made: list[Host] = []

    def memory() -> Host:
        made.append(Host())
        return made[-1]

    lanes = opened(memory)
    assert lanes.memory_bytes == 4 * slot_bytes(lanes.costs.rows[-1])
    lanes.run(ROWS[:2], OUTPUTS)
    assert lanes.busy_seconds > 0
    lanes.close()
    assert [memory.used() for memory in made] == [0] * len(made)
