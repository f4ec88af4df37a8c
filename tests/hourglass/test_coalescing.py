"""Calls of few rows of the asyncio client, which share messages."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourglass import AsyncClient, Client, HourglassError
from hourglass.contract.schema import Column
from hourglass.messages import TopFeatures
from hourglass.models import ModelVersion
from tests import artefacts
from tests.hourglass import fake as answers
from tests.hourglass.fake import Failure, Fake
from tests.processes import Serve

RNG = np.random.default_rng(0)
START = Callable[..., Fake]


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No task and no exception is left behind that nobody looked at."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    yield
    gc.collect()
    assert not problems


class Gate:
    """Holds requests back. As Fake.before."""

    def __init__(self) -> None:
        self._here = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, _: Any) -> None:
        self._here.release()
        assert self._open.wait(20)

    async def arrived(self, messages: int = 1) -> None:
        for _ in range(messages):
            assert await asyncio.to_thread(self._here.acquire, timeout=20)

    def open(self) -> None:
        self._open.set()


def rows_of(count: int, *row_shape: int) -> np.ndarray:
    return RNG.standard_normal((count, *(row_shape or (4,)))).astype(np.float32)


def sizes(fake: Fake) -> list[int]:
    return [request.tensor.shape[0] for request in fake.requests]


async def begun(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have made their calls, which are not sent yet."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def fill_window(client: AsyncClient, gate: Gate, width: int = 4) -> list[asyncio.Task[Any]]:
    """Two messages of a row under way."""
    tasks = []
    for _ in range(2):
        tasks += await begun(client.denoise("m", np.ones((1, width))))
        await gate.arrived()
    return tasks


def assert_same(found: Any, expected: Any) -> None:
    """Two answers, all that is in them."""
    assert type(found) is type(expected)
    for field in fields(found):
        values = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(values[1], TopFeatures):
            assert_same(*values)
        elif isinstance(values[1], np.ndarray):
            assert values[0].dtype == values[1].dtype
            np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)
        else:
            assert values[0] == values[1]


def names_bad_rows(request: Any) -> Failure | None:
    values = np.frombuffer(request.tensor.data, "<f4").reshape(request.tensor.shape)
    bad = np.flatnonzero(np.isnan(values).any(axis=1))
    code = grpc.StatusCode.INVALID_ARGUMENT
    return Failure(code, "NON_FINITE", f"row {bad[0]} is nan", "tensor", int(bad[0])) if len(bad) else None


CALLS = st.tuples(
    st.sampled_from(
        [
            ("embed", {}),
            ("denoise", {}),
            ("score", {}),
            ("score", {"threshold": 0.5}),
            ("score", {"top_features": 2, "feature_errors": True}),
            ("score", {"control_fdr": True, "false_alarm_rate": 0.2}),
        ]
    ),
    st.integers(1, 30),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, min_size=1, max_size=40), max_rows=st.integers(1, 60))
def test_answers_are_those_of_calls_alone(
    start: START, calls: list[tuple[tuple[str, dict[str, Any]], int]], max_rows: int
) -> None:
    fake, rows = start(max_rows=max_rows), [rows_of(count) for _, count in calls]

    async def together() -> Sequence[Any]:
        async with AsyncClient(fake.address) as client:
            made = zip(calls, rows, strict=True)
            return await asyncio.gather(*(getattr(client, name)("m", r, **o) for ((name, o), _), r in made))

    found = asyncio.run(together())
    assert max(sizes(fake)) <= max_rows
    with Client(fake.address) as client:
        for ((name, options), _), its, answer in zip(calls, rows, found, strict=True):
            assert_same(answer, getattr(client, name)("m", its, **options))


async def test_calls_of_one_turn_are_one_message(fake: Fake) -> None:
    rows = rows_of(500)
    async with AsyncClient(fake.address) as client:
        for _ in range(3):
            found = await asyncio.gather(*(client.denoise("m", row[None]) for row in rows))
            np.testing.assert_array_equal([answer.values[0] for answer in found], rows / 2)
    assert sizes(fake) == [500] * 3
    assert list(fake.calls) == ["GetModel"]


async def test_a_call_alone_is_a_message_at_once(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        for count in (1, 3, 1):
            assert len((await client.score("m", rows_of(count))).score) == count
    assert sizes(fake) == [1, 3, 1]


async def test_calls_gather_while_messages_are_under_way(start: START) -> None:
    gate = Gate()
    fake, rows = start(before=gate), rows_of(50)
    async with AsyncClient(fake.address) as client:
        first = await fill_window(client, gate)
        gathered = []
        for row in rows:  # each in a turn of its own
            gathered += await begun(client.denoise("m", row[None]))
        gate.open()
        for row, answer in zip(rows, await asyncio.gather(*gathered), strict=True):
            np.testing.assert_array_equal(answer.values, row[None] / 2)
        await asyncio.gather(*first)
    assert sizes(fake) == [1, 1, 50]


async def test_a_full_message_waits_for_nobody(start: START) -> None:
    gate = Gate()
    fake = start(before=gate, max_rows=10)
    async with AsyncClient(fake.address) as client:
        first = await fill_window(client, gate)
        tasks = await begun(*(client.denoise("m", rows_of(1)) for _ in range(25)))
        await gate.arrived(2)
        assert sizes(fake) == [1, 1, 10, 10]
        gate.open()
        await asyncio.gather(*first, *tasks)
    assert sizes(fake)[4:] == [5]


async def test_a_call_of_more_rows_than_a_message_goes_its_own_way(start: START) -> None:
    fake = start(max_rows=10)
    large, small = rows_of(35), rows_of(1)
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.denoise("m", rows) for rows in (small, large, small)))
    np.testing.assert_array_equal(found[1].values, large / 2)
    assert sorted(sizes(fake)) == [2, 5, 10, 10, 10]


async def test_messages_stay_below_the_servers_limit(start: START) -> None:
    fake, rows = start(row_shape=(100,), max_message_bytes=8192), rows_of(200, 100)
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.score("m", row[None]) for row in rows))
    np.testing.assert_allclose(np.concatenate([answer.score for answer in found]), answers.score(rows), rtol=1e-5)
    assert max(request.ByteSize() for request in fake.requests) <= 8192
    assert len(fake.requests) < 15


async def test_smaller_limits_are_learned(start: START) -> None:
    fake, rows = start(max_rows=100), rows_of(100)
    async with AsyncClient(fake.address) as client:
        await client.denoise("m", rows_of(1))
        for most, expected in ((30, [100, 30, 30, 30, 10]), (30, [30, 30, 30, 10])):
            fake.max_rows = most
            fake.requests.clear()
            found = await asyncio.gather(*(client.denoise("m", row[None]) for row in rows))
            np.testing.assert_array_equal([answer.values[0] for answer in found], rows / 2)
            assert sorted(sizes(fake)) == sorted(expected)


async def test_different_questions_are_different_messages(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(
            *(client.score("m", rows_of(1), threshold=t) for t in (0.5, 1.5, 0.5)),
            client.score("m", rows_of(1), threshold=0.5, version=3),
            client.score("m", rows_of(1), top_features=1),
            client.embed("m", rows_of(1)),
        )
    assert [answer.threshold for answer in found[:3]] == [0.5, 1.5, 0.5]
    assert found[3].model.version == 3
    assert found[4].top_features.feature.shape == (1, 1)
    assert found[2].top_features is None
    assert sorted(sizes(fake)) == [1, 1, 1, 1, 2]


async def test_the_false_discovery_rate_is_that_of_one_call(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        await asyncio.gather(*(client.score("m", rows_of(2), control_fdr=True) for _ in range(3)))
    assert sizes(fake) == [2, 2, 2]


async def test_answers_are_each_callers_own_memory(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        first, second = await asyncio.gather(*(client.score("m", np.ones((1, 4)), top_features=1) for _ in range(2)))
    assert sizes(fake) == [2]
    for ours, theirs in ((first.score, second.score), (first.top_features.share, second.top_features.share)):
        assert ours.base is None  # nor does it keep the others' answers
        ours[:] = 9
        assert theirs.max() <= 1


async def test_rows_are_those_of_the_moment_of_the_call(start: START) -> None:
    gate, fake = Gate(), start(row_shape=(2,), columns=("a", "b"))
    array, columns = np.ones((1, 2), dtype=np.float32), {"a": np.ones(1), "b": np.ones(1)}
    async with AsyncClient(fake.address) as client:
        await client.denoise("m", array)
        fake.before = gate
        first = await fill_window(client, gate, 2)
        tasks = await begun(client.denoise("m", array), client.denoise("m", columns))
        array[:], columns["a"][:] = 9, 9
        gate.open()
        for answer in await asyncio.gather(*first, *tasks):
            assert answer.values.tolist() == [[0.5, 0.5]]


async def test_rows_of_any_dtype_and_layout_travel_together(fake: Fake) -> None:
    rows = [np.asfortranarray(np.arange(8).reshape(2, 4)), np.ones((1, 4), dtype=bool), [[1, 2, 3, 1e39]], rows_of(1)]
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.denoise("m", its) for its in rows))
    for answer, its in zip(found, rows, strict=True):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            np.testing.assert_array_equal(answer.values, np.asarray(its, dtype=np.float32) / 2)
    assert sizes(fake) == [5]


async def test_what_is_not_numbers_is_its_callers_error(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(
            client.denoise("m", [["a", "b"]]), client.denoise("m", np.ones((1, 4))), return_exceptions=True
        )
    assert isinstance(found[0], TypeError)
    assert found[1].values.tolist() == [[0.5] * 4]


async def test_a_wrong_shape_is_its_callers_error(fake: Fake) -> None:
    wrong = [np.zeros(4), np.zeros((0, 4)), np.zeros((1, 5)), np.zeros((1, 5)), 3.0]
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(
            *(client.denoise("m", rows) for rows in [*wrong, np.ones((1, 4))]), return_exceptions=True
        )
    assert [error.code for error in found[:5]] == [grpc.StatusCode.INVALID_ARGUMENT] * 5
    assert str(found[2]) == str(found[3]) == "[1, 5]"  # of its own call, not of the message
    assert found[5].values.tolist() == [[0.5] * 4]


async def test_a_caller_that_cancels_before_its_rows_are_sent_is_left_out(start: START) -> None:
    gate = Gate()
    fake, rows = start(before=gate), rows_of(20)
    async with AsyncClient(fake.address) as client:
        first = await fill_window(client, gate)
        tasks = await begun(*(client.denoise("m", row[None]) for row in rows))
        tasks[7].cancel()
        gate.open()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*first)
    assert isinstance(found.pop(7), asyncio.CancelledError)
    np.testing.assert_array_equal([answer.values[0] for answer in found], np.delete(rows, 7, axis=0) / 2)
    assert sizes(fake) == [1, 1, 19]


async def test_a_caller_that_cancels_afterwards_does_not_touch_the_others(start: START) -> None:
    gate = Gate()
    fake, rows = start(before=gate), rows_of(20)
    async with AsyncClient(fake.address) as client:
        tasks = await begun(*(client.denoise("m", row[None]) for row in rows))
        await gate.arrived()
        tasks[7].cancel()
        await asyncio.wait([tasks[7]])
        gate.open()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(7), asyncio.CancelledError)
    np.testing.assert_array_equal([answer.values[0] for answer in found], np.delete(rows, 7, axis=0) / 2)
    assert sizes(fake) == [20]


async def test_a_message_that_nobody_waits_for_is_cancelled(start: START) -> None:
    gate = Gate()
    fake = start(before=gate)
    async with AsyncClient(fake.address) as client:
        tasks = await begun(*(client.denoise("m", rows_of(1)) for _ in range(20)))
        await gate.arrived()
        for task in tasks:
            task.cancel()
        assert await asyncio.to_thread(fake.ended.acquire, timeout=20)  # while the server still works at it
        gate.open()
        assert len((await client.denoise("m", rows_of(2))).values) == 2


class SlowModel(Fake):
    """Holds GetModel back."""

    gate: Gate

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.gate(request)
        return super().GetModel(request, context)


async def test_a_first_caller_that_cancels_does_not_touch_the_others() -> None:
    fake = SlowModel()
    fake.gate = Gate()
    with answers.serving(fake):
        async with AsyncClient(fake.address) as client:
            tasks = await begun(*(client.denoise("m", np.ones((1, 4))) for _ in range(3)))
            await fake.gate.arrived()
            tasks[0].cancel()
            fake.gate.open()
            cancelled, *found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [answer.values.tolist() for answer in found] == [[[0.5] * 4]] * 2
    assert list(fake.calls) == ["GetModel"]


async def test_an_error_that_nobody_waits_for_is_not_reported() -> None:
    fake = SlowModel()
    fake.gate = Gate()
    with answers.serving(fake):
        async with AsyncClient(fake.address) as client:
            [task] = await begun(client.denoise("nobody", np.ones((1, 4))))
            await fake.gate.arrived()
            task.cancel()
            await asyncio.wait([task])
            [other] = await begun(client.denoise("nobody", np.ones((1, 4))))
            other.cancel()
            fake.gate.open()
            await client.denoise("m", np.ones((1, 4)))
    assert list(fake.calls) == ["GetModel"] * 2


async def test_a_bad_row_is_its_callers_error(start: START) -> None:
    fake, rows = start(before=names_bad_rows), [rows_of(3) for _ in range(20)]
    rows[11][2] = np.nan
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.denoise("m", its) for its in rows), return_exceptions=True)
    error = found.pop(11)
    assert isinstance(error, HourglassError)
    assert (error.reason, error.row, str(error)) == ("NON_FINITE", 2, "row 2 is nan")
    for answer, its in zip(found, rows[:11] + rows[12:], strict=True):
        np.testing.assert_array_equal(answer.values, its / 2)
    assert sorted(sizes(fake)) == [3, 27, 30, 60]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bad=st.sets(st.integers(0, 63)))
def test_many_bad_rows_are_each_their_callers(start: START, bad: set[int]) -> None:
    fake, rows = start(before=names_bad_rows), rows_of(64)
    rows[list(bad)] = np.nan

    async def together() -> Sequence[Any]:
        async with AsyncClient(fake.address) as client:
            return await asyncio.gather(*(client.denoise("m", row[None]) for row in rows), return_exceptions=True)

    for i, answer in enumerate(asyncio.run(together())):
        if i in bad:
            assert isinstance(answer, HourglassError)
            assert answer.row == 0
        else:
            np.testing.assert_array_equal(answer.values, rows[i : i + 1] / 2)
    assert sum(sizes(fake)) <= 64 * 8  # each level of halves sends every row once at most


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
async def test_what_is_refused_without_a_name_is_sent_one_by_one(start: START, code: grpc.StatusCode) -> None:
    def before(request: Any) -> Failure | None:
        seven = 7 in np.frombuffer(request.tensor.data, "<f4")
        return Failure(code, "ODD", f"{request.tensor.shape[0]} rows with a seven") if seven else None

    fake, rows = start(before=before), np.arange(10)[:, None] * np.ones(4)
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.denoise("m", row[None]) for row in rows), return_exceptions=True)
    assert str(found.pop(7)) == "1 rows with a seven"
    np.testing.assert_array_equal([answer.values[0] for answer in found], np.delete(rows, 7, axis=0) / 2)
    assert sizes(fake) == [10] + [1] * 10


@pytest.mark.parametrize(
    ("failure", "messages"),
    [
        (Failure(grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIAL"), 1),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=10), 4),  # gRPC's retries
    ],
)
async def test_what_is_wrong_with_all_is_told_to_all(start: START, failure: Failure, messages: int) -> None:
    fake = start(before=lambda _: failure)
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.denoise("m", rows_of(1)) for _ in range(10)), return_exceptions=True)
    assert [(error.code, error.reason, error.message) for error in found] == [(failure.code, failure.reason, "no")] * 10
    assert len(set(map(id, found))) == 10  # an exception is its catcher's to write notes into
    assert sizes(fake) == [10] * messages


async def test_an_unknown_model_is_asked_for_once(fake: Fake) -> None:
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(*(client.embed("nobody", rows_of(1)) for _ in range(10)), return_exceptions=True)
    assert [error.reason for error in found] == ["MODEL_NOT_FOUND"] * 10
    assert len(set(map(id, found))) == 10
    assert list(fake.calls) == ["GetModel"]


async def test_closing_ends_who_waits(start: START) -> None:
    gate = Gate()
    client = AsyncClient(start(before=gate).address)
    under_way = await fill_window(client, gate)
    gathered = await begun(*(client.denoise("m", rows_of(1)) for _ in range(3)))
    await client.close()
    gate.open()
    for error in await asyncio.gather(*under_way, return_exceptions=True):
        assert isinstance(error, asyncio.CancelledError)
    for error in await asyncio.gather(*gathered, return_exceptions=True):
        assert isinstance(error, ValueError)
        assert "the client is closed" in str(error)


async def test_named_columns_travel_together(start: START) -> None:
    fake = start(row_shape=(2,), columns=("a", "b"))
    async with AsyncClient(fake.address) as client:
        found = await asyncio.gather(
            *(client.denoise("m", {"a": [i], "note": [object()], "b": [2.0]}) for i in range(10)),
            client.denoise("m", {"a": [1.0]}),
            return_exceptions=True,
        )
    assert isinstance(found[10], HourglassError)
    assert (found[10].reason, found[10].field) == ("MISSING_COLUMN", "table.columns.b")
    assert [answer.values.tolist() for answer in found[:10]] == [[[i / 2, 1.0]] for i in range(10)]
    assert [len(request.table.columns) for request in fake.requests] == [2]


@pytest.mark.parametrize("callers", [1, 5])
@pytest.mark.parametrize(("before", "after"), [(("a",), ("a", "b")), (("a", "b"), ("a",))], ids=["more", "fewer"])
async def test_other_columns_are_learned(
    start: START, before: tuple[str, ...], after: tuple[str, ...], callers: int
) -> None:
    fake = start()
    async with AsyncClient(fake.address) as client:
        for fake.columns in (before, after):
            fake.row_shape = (len(fake.columns),)
            # What the model does not take any more may be gone.
            columns = {name: [1.0] for name in sorted({*fake.columns, *after})}
            for answer in await asyncio.gather(*(client.denoise("m", columns) for _ in range(callers))):
                assert answer.values.tolist() == [[0.5] * len(fake.columns)]


async def test_the_real_server_answers_as_if_alone(serve: Callable[..., Serve], tmp_path: Path) -> None:
    artefacts.publish(tmp_path, "wide", artefacts.Linear.random(width=20, embedding_size=3, prior=True))
    kinds = [Column(name="a"), Column(name="kind", type="categorical", categories=("x", "y")), Column(name="b")]
    artefacts.publish(tmp_path, "mixed", artefacts.Linear.random(width=3, fill=True), columns=kinds)
    server = serve(tmp_path, "--max-batch-rows", "100")
    calls: list[tuple[str, str, Any, dict[str, Any]]] = []
    for i in range(40):
        calls += [
            ("score", "wide", rows_of(1, 20), {}),
            ("score", "wide", rows_of(1 + i % 3, 20).astype(np.float64), {"top_features": 2, "feature_errors": True}),
            ("embed", "wide", rows_of(1, 20), {"with_stddev": True}),
            ("denoise", "mixed", {"a": [0.1 * i], "kind": ["xyz"[i % 3]], "b": [None if i % 5 == 0 else 2.0]}, {}),
            ("score", "mixed", {"b": [1.0], "kind": [None], "a": [0.2 * i]}, {"false_alarm_rate": 0.1}),
        ]
    bad = ("score", "wide", np.full((1, 20), np.nan), {})
    async with AsyncClient(server.address) as client:

        async def ask(method: str, model: str, rows: Any, options: dict[str, Any]) -> Any:
            return await getattr(client, method)(model, rows, **options)

        *found, error = await asyncio.gather(*(ask(*call) for call in [*calls, bad]), return_exceptions=True)
        assert isinstance(error, HourglassError)
        assert (error.reason, error.row) == ("NON_FINITE", 0)
        assert found[0].model == ModelVersion("wide", 1, found[0].model.embedding_space_id)
    messages = server.metric("hourglass_requests_total", method="Score", code="OK")
    with Client(server.address) as blocking:
        for (method, model, rows, options), answer in zip(calls, found, strict=True):
            assert_same(answer, getattr(blocking, method)(model, rows, **options))
    assert messages < 10
