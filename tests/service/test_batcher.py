"""The batcher against runs whose beginning and end the test decides."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from service.arrivals import Arrivals
from service.batcher import Batcher, Limits
from service.costs import Costs
from service.errors import DeadlineMissed, InferenceFailed, Overloaded, ShuttingDown

OUT = ("out",)
COSTS = Costs((1, 1024), (1e-3, 1e-3))


class Recorder:
    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waits: list[float] = []
        self.rejections: list[str] = []
        self.ends: list[type[BaseException] | None] = []
        self.rows: list[np.ndarray] = []

    def answered(self, rows: np.ndarray, answer: dict[str, np.ndarray]) -> None:
        assert all(len(values) == len(rows) for values in answer.values())
        self.rows.append(rows)

    def batch(self, rows: int, waits: Sequence[float], run_seconds: float) -> None:
        self.batches.append(rows)
        self.waits += waits

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)

    def ended(self, failed: type[BaseException] | None, seconds: float) -> None:
        self.ends.append(failed)


class Gate:
    """A run that doubles its rows, but not before it is let through; a row of 666 is poison, 3e38 overflows."""

    def __init__(self, open_: bool = True) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self._once = threading.Event()
        self.runs: list[np.ndarray] = []
        if open_:
            self.open.set()

    def pass_one(self) -> None:
        """Let the run that is waiting go on; the next one waits again."""
        self.entered.clear()
        self._once.set()

    def __call__(self, rows: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.entered.set()
        while not self.open.wait(0.001) and not self._once.is_set():
            pass
        self._once.clear()
        self.runs.append(rows)
        if (rows == 666).any():
            raise RuntimeError("poison")
        with np.errstate(over="ignore"):
            return {name: rows * np.float32(2 if name == "out" else 3) for name in outputs}

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


def rows(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., tuple[Batcher, Recorder]]]:
    made: list[Batcher] = []

    def build(
        run: Gate,
        batch_rows: int = 8,
        queue_rows: int = 1000,
        queue_bytes: int = 10**6,
        costs: Costs = COSTS,
        **more: Any,
    ):
        recorder = Recorder()
        limits = Limits(batch_rows, queue_rows, queue_bytes, **more)
        batcher = Batcher(run, costs, recorder, limits, Arrivals(), recorder.answered)
        made.append(batcher)
        return batcher, recorder

    yield build
    await asyncio.gather(*(batcher.close() for batcher in made))


async def queue_behind(batcher: Batcher, gate: Gate, *requests: np.ndarray) -> list[asyncio.Task]:
    """Requests that wait together while one row is being run."""
    first = asyncio.create_task(batcher.submit(rows(0), OUT))
    await gate.wait_entered()
    tasks = [asyncio.create_task(batcher.submit(request, OUT)) for request in requests]
    while batcher.queued_rows < sum(map(len, requests)):
        await asyncio.sleep(0)
    return [first, *tasks]


async def test_a_lone_request_runs_at_once(make: Callable) -> None:
    batcher, recorder = make(Gate())
    answer = await batcher.submit(rows(1, 2), OUT)
    np.testing.assert_array_equal(answer["out"], rows(2, 4))
    assert recorder.batches == [2]


async def test_what_waits_runs_together_in_order_and_rows_are_counted(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, batch_rows=8)
    tasks = await queue_behind(batcher, gate, rows(1, 2, 3), rows(4, 5), rows(6, 7, 8), rows(9), rows(*range(10, 18)))
    gate.open.set()
    answers = await asyncio.gather(*tasks)
    np.testing.assert_array_equal(np.concatenate([a["out"] for a in answers]), rows(*range(18)) * 2)
    assert recorder.batches == [1, 8, 8, 1]
    np.testing.assert_array_equal(np.concatenate(recorder.rows), rows(*range(18)))


async def test_a_long_request_is_run_in_batches_and_joined_in_order_and_others_have_their_turn(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, batch_rows=8)
    long, short = rows(*range(100, 130)), rows(7)
    first, *waiting = await queue_behind(batcher, gate, long, short)
    done: list[int] = []
    for i, task in enumerate(waiting):
        task.add_done_callback(lambda _task, i=i: done.append(i))
    gate.open.set()
    answers = await asyncio.gather(*waiting)
    np.testing.assert_array_equal(answers[0]["out"], long * 2)
    np.testing.assert_array_equal(answers[1]["out"], short * 2)
    assert done == [1, 0], "the short request waited for all of the long one"
    assert recorder.batches == [1, 8, 8, 8, 7]
    await first


async def test_a_long_request_is_not_starved_by_short_ones(make: Callable) -> None:
    """With the queue kept full of single rows, it has every second batch at least."""
    batcher, recorder = make(Gate(), batch_rows=8)
    done = asyncio.Event()

    async def short() -> None:
        while not done.is_set():
            await batcher.submit(rows(1), OUT)

    callers = [asyncio.create_task(short()) for _ in range(48)]
    while not recorder.batches:
        await asyncio.sleep(0)
    long = rows(*range(400))
    before = len(recorder.batches)
    np.testing.assert_array_equal((await asyncio.wait_for(batcher.submit(long, OUT), 30))["out"], long * 2)
    assert len(recorder.batches) - before < 3 * 400 / 8
    done.set()
    await asyncio.gather(*callers)


async def test_a_thread_that_cannot_start_fails_its_batch_and_no_other(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batcher, _ = make(Gate())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(InferenceFailed):
            await batcher.submit(rows(1), OUT)
    assert (await batcher.submit(rows(2), OUT))["out"][0, 0] == 4


async def test_who_watches_cannot_spoil_an_answer(make: Callable, caplog: pytest.LogCaptureFixture) -> None:
    batcher, recorder = make(Gate(), batch_rows=2)
    recorder.waits = None  # so that reporting raises
    for request in (rows(1), rows(1, 2, 3)):
        np.testing.assert_array_equal((await batcher.submit(request, OUT))["out"], request * 2)
    assert "could not be reported" in caplog.text


async def test_what_is_shown_of_a_batch_is_what_each_asked_for(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate)
    shown: list[tuple[int, tuple[str, ...]]] = []
    recorder.answered = lambda batch, answer: shown.append((len(batch), tuple(answer)))
    batcher._answered = recorder.answered
    (first,) = await queue_behind(batcher, gate)
    tasks = [asyncio.create_task(batcher.submit(rows(i), o)) for i, o in enumerate([("out",), ("other",)])]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert shown == [(1, ("out",)), (1, ("out",)), (1, ("other",))]


async def test_several_runners_share_a_long_request(make: Callable) -> None:
    """Each runner is inside a run at the same time."""
    inside, together = threading.Semaphore(0), threading.Barrier(2, timeout=30)

    def run(batch: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        inside.release()
        together.wait()
        return dict.fromkeys(outputs, batch * 2)

    batcher, recorder = make(run, batch_rows=8, runners=2)
    long = rows(*range(16))
    np.testing.assert_array_equal((await batcher.submit(long, OUT))["out"], long * 2)
    assert recorder.batches == [8, 8]


async def test_a_cancelled_long_request_is_not_run_to_its_end(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, batch_rows=8)
    first, long = await queue_behind(batcher, gate, rows(*range(80)))
    gate.pass_one()
    await first
    await gate.wait_entered()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    assert batcher.queued_rows == 0
    gate.open.set()
    assert (await batcher.submit(rows(5), OUT))["out"][0, 0] == 10
    assert sum(recorder.batches) == 1 + 8 + 1


async def test_poison_in_one_part_fails_the_long_request_and_nobody_else(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, batch_rows=8)
    tasks = await queue_behind(batcher, gate, rows(*range(10), 3e38, 1), rows(3), rows(4))
    gate.open.set()
    _, long, *short = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(long, InferenceFailed)
    assert long.row == 10
    assert [answer["out"][0, 0] for answer in short] == [6, 8]
    assert batcher.queued_rows == 0


async def test_what_is_quick_runs_on_the_event_loop(make: Callable) -> None:
    threads = set()

    def run(batch: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        threads.add(threading.current_thread())
        return dict.fromkeys(outputs, batch)

    for inline_seconds, here in ((1.0, True), (0.0, False)):
        threads.clear()
        batcher, _ = make(run, inline_seconds=inline_seconds)
        await batcher.submit(rows(1), OUT)
        assert (threads == {threading.main_thread()}) is here


async def test_a_delay_lets_a_batch_fill_and_a_full_one_goes_at_once(make: Callable) -> None:
    batcher, recorder = make(Gate(), batch_rows=4, delay=30.0)
    requests = [asyncio.create_task(batcher.submit(rows(i), OUT)) for i in range(4)]
    await asyncio.wait_for(asyncio.gather(*requests), 10)
    assert recorder.batches == [4]
    assert batcher._timer is None, "the next row would not have its whole delay"


async def test_each_request_gets_the_outputs_it_asked_for(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate)
    (first,) = await queue_behind(batcher, gate)
    asked = [("out",), ("other",), ("other", "out")]
    tasks = [asyncio.create_task(batcher.submit(rows(i), outputs)) for i, outputs in enumerate(asked)]
    await asyncio.sleep(0)
    gate.open.set()
    answers = await asyncio.gather(first, *tasks)
    assert [tuple(answer) for answer in answers[1:]] == asked
    assert len(gate.runs) == 2


async def test_one_cancelled_request_leaves_its_batch_mates_alone(make: Callable) -> None:
    """A peer hangs half the batch here."""
    for when in ("queued", "running"):
        gate = Gate(open_=False)
        batcher, _ = make(gate)
        tasks = await queue_behind(batcher, gate, *(rows(i) for i in range(1, 9)))
        if when == "running":
            gate.pass_one()
            await gate.wait_entered()
        tasks[3].cancel()
        gate.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers.pop(3), asyncio.CancelledError)
        np.testing.assert_array_equal([a["out"][0, 0] for a in answers], [0, 2, 4, 8, 10, 12, 14, 16])
        assert batcher.queued_rows == 0
        if when == "queued":
            assert sum(map(len, gate.runs)) == 8, "the cancelled row was run all the same"


async def test_cancelled_rows_make_room_at_once(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, queue_rows=8)
    _, waiting = await queue_behind(batcher, gate, rows(*range(8)))
    with pytest.raises(Overloaded):
        await batcher.submit(rows(1), OUT)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    accepted = asyncio.create_task(batcher.submit(rows(1), OUT))
    gate.open.set()
    assert (await accepted)["out"][0, 0] == 2


async def test_a_poisoned_request_fails_alone(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate)
    tasks = await queue_behind(batcher, gate, rows(1), rows(666, 2), rows(3), rows(3e38), rows(4))
    gate.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [a["out"][0, 0] for a in (answers[0], answers[1], answers[3], answers[5])] == [0, 2, 6, 8]
    for failed in (answers[2], answers[4]):
        assert isinstance(failed, InferenceFailed)
    assert isinstance(answers[2].__cause__, RuntimeError)
    assert answers[4].row == 0
    assert (await batcher.submit(rows(5), OUT))["out"][0, 0] == 10, "the loop did not survive"


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, batch_rows=4, queue_rows=4)
    tasks = await queue_behind(batcher, gate, rows(1, 2, 3), rows(4, 5))
    for more in (rows(6), rows(*range(100))):
        with pytest.raises(Overloaded, match="5 rows, 20 bytes, are waiting; no more are taken from 4 rows") as refused:
            await batcher.submit(more, OUT)
        assert 0 < refused.value.retry_after <= 5
    assert recorder.rejections == ["QUEUE_FULL"] * 2
    gate.open.set()
    await asyncio.gather(*tasks)


async def test_the_queue_is_bounded_in_bytes_too_and_takes_one_request_of_any_size(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, queue_bytes=20)
    tasks = await queue_behind(batcher, gate, rows(*range(6)))  # 24 bytes, alone
    with pytest.raises(Overloaded, match="24 bytes"):
        await batcher.submit(rows(1), OUT)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert recorder.rejections == ["QUEUE_FULL"]
    assert (await batcher.submit(rows(1), OUT))["out"][0, 0] == 2


async def test_the_time_to_come_back_is_that_of_the_rows_that_wait(make: Callable) -> None:
    """From the first batch on: it is known what batches cost. What they take later counts too."""
    gate = Gate(open_=False)
    batcher, _ = make(gate, queue_rows=8, costs=Costs((1, 8), (0.2, 1.6)))
    waiting = await queue_behind(batcher, gate, rows(*range(8)))
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(rows(1), OUT)
    assert refused.value.retry_after == pytest.approx(8 * 0.2)
    gate.open.set()
    await asyncio.gather(*waiting)
    for _ in range(50):
        await batcher.submit(rows(1), OUT)
    gate.open.clear()
    waiting = await queue_behind(batcher, gate, rows(*range(8)))
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(rows(1), OUT)
    assert refused.value.retry_after < 0.2
    gate.open.set()
    await asyncio.gather(*waiting)


async def test_finding_the_guilty_row_takes_few_runs(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, batch_rows=128)
    tasks = await queue_behind(batcher, gate, *(rows(666 if i == 77 else i) for i in range(128)))
    gate.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [i for i, answer in enumerate(answers[1:]) if isinstance(answer, Exception)] == [77]
    assert len(gate.runs) <= 1 + 2 * 8 + 1


async def test_a_runtime_that_loses_rows_is_found_out(make: Callable) -> None:
    batcher, _ = make(lambda rows, outputs: dict.fromkeys(outputs, rows[1:]))
    with pytest.raises(InferenceFailed) as failed:
        await batcher.submit(rows(1, 2), OUT)
    assert "2 rows came back" in str(failed.value.__cause__)


async def test_what_expires_in_the_queue_is_never_run(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate)
    (first,) = await queue_behind(batcher, gate)
    late = asyncio.create_task(batcher.submit(rows(7), OUT, timeout=0.0))
    patient = asyncio.create_task(batcher.submit(rows(8), OUT, timeout=60))
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(DeadlineMissed):
        await late
    assert (await patient)["out"][0, 0] == 16
    await first
    assert 7 not in np.concatenate(gate.runs)
    assert recorder.rejections == ["DEADLINE_EXCEEDED"]


async def test_closing_answers_what_runs_and_refuses_what_waits(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate)
    running, waiting = await queue_behind(batcher, gate, rows(1))
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    gate.open.set()
    await closing
    assert (await running)["out"][0, 0] == 0
    for refused in (waiting, asyncio.create_task(batcher.submit(rows(2), OUT))):
        with pytest.raises(ShuttingDown):
            await refused


async def test_two_thousand_requests_half_of_them_cancelled(make: Callable) -> None:
    """Every answer is that of its own rows, nothing hangs, nothing stays in the queue."""
    rng = random.Random(0)
    batcher, recorder = make(Gate(), batch_rows=64, queue_rows=100_000)
    sizes = [rng.randint(1, 20) for _ in range(2_000)]
    requests = [rows(*(i * 32 + k for k in range(size))) for i, size in enumerate(sizes)]
    tasks = [asyncio.create_task(batcher.submit(request, OUT)) for request in requests]
    doomed = set(rng.sample(range(2_000), 1_000))
    for i in sorted(doomed, key=lambda _: rng.random()):
        tasks[i].cancel()
        if rng.random() < 0.05:
            await asyncio.sleep(0)
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    for i, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert i in doomed
        else:
            np.testing.assert_array_equal(answer["out"], request * 2)
    assert sum(isinstance(a, dict) for a in answers) >= 1_000
    assert batcher.queued_rows == 0
    assert max(recorder.batches) <= 64


async def test_what_is_urgent_goes_ahead_of_what_waits(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, batch_rows=1)
    usual = await queue_behind(batcher, gate, rows(1), rows(2))
    urgent = [asyncio.create_task(batcher.submit(rows(*values), OUT, urgent=True)) for values in ((3, 4), (5,))]
    await asyncio.sleep(0)
    gate.open.set()
    answers = await asyncio.gather(*usual, *urgent)
    assert [answer["out"].tolist() for answer in answers] == [[[0]], [[2]], [[4]], [[6], [8]], [[10]]]
    # A long urgent request lets other urgent ones have their turn, and nobody else.
    assert [run.item() for run in gate.runs] == [0, 3, 5, 4, 1, 2]


async def test_how_each_request_ended_is_told_once(make: Callable) -> None:
    gate = Gate(open_=False)
    batcher, recorder = make(gate, batch_rows=4, queue_rows=4)
    first, left, poison = await queue_behind(batcher, gate, rows(1), rows(666, 1, 1))
    with pytest.raises(Overloaded):
        await batcher.submit(rows(2), OUT)
    left.cancel()
    await asyncio.wait([left])
    expired = asyncio.create_task(batcher.submit(rows(3), OUT, timeout=0.0))
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.wait([first, poison, expired])
    assert recorder.ends[:2] == [Overloaded, asyncio.CancelledError]
    assert set(recorder.ends[2:]) == {None, InferenceFailed, DeadlineMissed}
    assert len(recorder.ends) == 5


async def test_patience_ends_though_the_turn_never_comes(make: Callable[..., tuple[Batcher, Recorder]]) -> None:
    """Behind urgent rows, whose run is not let through."""
    gate = Gate(open_=False)
    batcher, recorder = make(gate, 1)
    running = asyncio.create_task(batcher.submit(rows(0), OUT))
    await gate.wait_entered()
    urgent = asyncio.create_task(batcher.submit(rows(1), OUT, urgent=True))
    with pytest.raises(DeadlineMissed):
        await batcher.submit(rows(2), OUT, patience=0.01)
    assert batcher.queued_rows == 1
    assert recorder.rejections == [DeadlineMissed.reason]
    gate.open.set()
    for task in (running, urgent):
        await task
    assert [float(run[0, 0]) for run in gate.runs] == [0.0, 1.0]


async def test_a_run_that_has_begun_is_not_cut_short(make: Callable[..., tuple[Batcher, Recorder]]) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, 1)
    running = asyncio.create_task(batcher.submit(rows(3), OUT, patience=0.01))
    await gate.wait_entered()
    await asyncio.to_thread(threading.Event().wait, 0.05)
    gate.open.set()
    assert (await running)["out"][0, 0] == 6


async def test_the_queue_does_not_fill_up_with_what_nobody_waits_for(
    make: Callable[..., tuple[Batcher, Recorder]],
) -> None:
    gate = Gate(open_=False)
    batcher, _ = make(gate, 1)
    running = asyncio.create_task(batcher.submit(rows(0), OUT))
    await gate.wait_entered()
    waiting = [asyncio.create_task(batcher.submit(rows(i), OUT)) for i in range(10)]
    for _ in range(1000):
        given_up = asyncio.create_task(batcher.submit(rows(1), OUT))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
    assert batcher.queued_rows == 10
    assert batcher.queued_requests < 200
    gate.open.set()
    assert [float((await task)["out"][0, 0]) for task in waiting] == [2.0 * i for i in range(10)]
    await running
