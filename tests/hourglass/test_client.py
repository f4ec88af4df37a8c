"""Both clients against a server of numpy: every test runs with the blocking and with the asyncio one."""

from __future__ import annotations

import asyncio
import copy
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourglass import AsyncClient, Client, HourglassError, benjamini_hochberg
from tests.hourglass import fake as answers
from tests.hourglass.fake import Failure, Fake

RNG = np.random.default_rng(0)
START = Callable[..., Fake]


class Blocking:
    """AsyncClient, called like Client."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()

        async def make() -> AsyncClient:
            return AsyncClient(*args, **settings)

        self._client = self._loop.run_until_complete(make())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = getattr(self._client, name)(*args, **options)
            return self._iterate(result) if name.endswith("_batches") else self._loop.run_until_complete(result)

        return call

    def _iterate(self, answers: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(answers))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(answers.aclose())

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    clients = []

    def connect(server: Fake | str, **settings: Any) -> Client:
        clients.append(request.param(server if isinstance(server, str) else server.address, **settings))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def rows_of(count: int, *row_shape: int) -> np.ndarray:
    return RNG.standard_normal((count, *(row_shape or (4,)))).astype(np.float32)


def test_answers_are_numpy_and_name_their_model(fake: Fake, connect: Callable[..., Client]) -> None:
    client, rows = connect(fake), rows_of(5)
    embeddings, cleaned, scores = client.embed("m", rows), client.denoise("m", rows), client.score("m", rows)
    np.testing.assert_array_equal(embeddings.values, answers.embedding(rows))
    np.testing.assert_array_equal(cleaned.values, answers.reconstruction(rows))
    np.testing.assert_allclose(scores.score, answers.score(rows), rtol=1e-6)
    np.testing.assert_array_equal(scores.is_anomaly, scores.score > answers.THRESHOLD)
    assert scores.is_anomaly.dtype == np.bool_
    assert scores.p_value.shape == (5,)
    np.testing.assert_allclose(scores.reconstruction_error, answers.score(rows) / 2, rtol=1e-6)
    np.testing.assert_array_equal(scores.clipped, (np.abs(rows) > answers.CLIP).sum(axis=1))
    assert scores.clipped.dtype == np.int32
    assert scores.top_features is scores.feature_errors is None
    assert (scores.threshold, scores.false_alarm_rate) == (answers.THRESHOLD, 0.01)
    assert embeddings.model == cleaned.model == scores.model
    assert (scores.model.name, scores.model.version, scores.model.embedding_space_id) == ("m", 7, "0123456789abcdef")


def test_answers_are_the_callers_own_memory(start: START, connect: Callable[..., Client]) -> None:
    client, rows = connect(start(max_rows=10)), rows_of(15)
    for scores in (client.score("m", rows), client.score("m", rows[:5]), next(client.score_batches("m", [rows[:5]]))):
        for values in (scores.score, scores.p_value, scores.is_anomaly):
            assert values.flags.writeable


def test_a_false_alarm_rate_is_passed_on(fake: Fake, connect: Callable[..., Client]) -> None:
    assert connect(fake).score("m", rows_of(3), false_alarm_rate=0.2).false_alarm_rate == 0.2


def test_a_threshold_is_passed_on(fake: Fake, connect: Callable[..., Client]) -> None:
    client, rows = connect(fake), rows_of(30)
    for scores in (client.score("m", rows, threshold=0.5), next(client.score_batches("m", [rows], threshold=0.5))):
        assert scores.threshold == 0.5
        np.testing.assert_array_equal(scores.is_anomaly, scores.score > 0.5)
    assert not fake.requests[0].HasField("false_alarm_rate")


@pytest.mark.parametrize("row_shape", [(4,), (3, 2)])
def test_scores_are_explained_over_all_messages(
    start: START, connect: Callable[..., Client], row_shape: tuple[int, ...]
) -> None:
    client, rows = connect(start(row_shape=row_shape, max_rows=10)), rows_of(25, *row_shape)
    scores = client.score("m", rows, top_features=2, feature_errors=True)
    errors = answers.feature_errors(rows)
    np.testing.assert_array_equal(scores.feature_errors, errors)
    top, flat = scores.top_features, errors.reshape(25, -1)
    assert top is not None
    np.testing.assert_array_equal(top.feature, np.argsort(-flat, axis=1, kind="stable")[:, :2])
    for values, answered in ((rows, top.observed), (rows / 2, top.expected)):
        np.testing.assert_array_equal(answered, np.take_along_axis(values.reshape(25, -1), top.feature, axis=1))
    shares = np.take_along_axis(flat / flat.sum(axis=1, keepdims=True), top.feature, axis=1)
    np.testing.assert_allclose(top.share, shares, rtol=1e-5)
    [batch] = client.score_batches("m", [rows[:5]], top_features=2, feature_errors=True)
    np.testing.assert_array_equal(batch.top_features.feature, top.feature[:5])
    np.testing.assert_array_equal(batch.feature_errors, errors[:5])


def test_features_have_names(start: START, connect: Callable[..., Client]) -> None:
    row = np.array([[1.0, 3.0, 2.0]])
    named = connect(start(row_shape=(3,), columns=("a", "b", "c")))
    top = named.score("m", row, top_features=3).top_features
    assert top is not None
    assert top.names(named.model("m")).tolist() == [["b", "c", "a"]]
    image = connect(start(row_shape=(2, 3)))
    top = image.score("m", np.arange(6.0).reshape(1, 2, 3), top_features=2).top_features
    assert top is not None
    assert top.names(image.model("m")).tolist() == [["1,2", "1,1"]]


def test_false_discoveries_are_controlled_over_all_messages(start: START, connect: Callable[..., Client]) -> None:
    """p-values of 0.005, 0.1 and 0.67: of its ten rows a message alone would call those of 0.1, of 100 rows nobody."""
    fake, rows = start(max_rows=10), np.full((100, 4), np.sqrt(0.5))
    rows[:10], rows[10:20] = np.sqrt(199), 3
    scores = connect(fake).score("m", rows, control_fdr=True, false_alarm_rate=0.2)
    assert benjamini_hochberg(scores.p_value[10:20], 0.2).all()
    assert scores.is_anomaly.tolist() == [True] * 10 + [False] * 90
    assert scores.threshold == pytest.approx(9)
    assert scores.false_alarm_rate == 0.2
    assert len(fake.requests) == 10
    assert all(request.control_fdr for request in fake.requests)


def test_models_say_what_they_take(start: START, connect: Callable[..., Client]) -> None:
    client = connect(start(row_shape=(2,), columns=("a", "b")))
    [info] = client.models()
    assert info == client.model("m")
    assert (info.row_shape, info.columns, info.embedding_size) == ((2,), ("a", "b"), 2)
    assert (info.calibration.rows, info.calibration.threshold) == (99, answers.THRESHOLD)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 300), max_rows=st.integers(1, 120))
def test_any_number_of_rows_comes_back_in_order(
    start: START, connect: Callable[..., Client], count: int, max_rows: int
) -> None:
    fake = start(max_rows=max_rows)
    rows = rows_of(count)
    np.testing.assert_array_equal(connect(fake).denoise("m", rows).values, answers.reconstruction(rows))
    sizes = [request.tensor.shape[0] for request in fake.requests]
    assert sum(sizes) == count
    assert len(sizes) == -(-count // max_rows)


@pytest.mark.parametrize("row_shape", [(1000,), (1,)], ids=["long requests", "long answers"])
def test_messages_stay_below_the_servers_limit(
    start: START, connect: Callable[..., Client], row_shape: tuple[int, ...]
) -> None:
    fake = start(row_shape=row_shape, max_message_bytes=8192, max_rows=10**6)
    rows = rows_of(2000, *row_shape)
    np.testing.assert_allclose(connect(fake).score("m", rows).score, answers.score(rows), rtol=1e-5)
    most = max(request.tensor.shape[0] for request in fake.requests)
    assert max(request.ByteSize() for request in fake.requests) <= 8192
    assert most * (4 + 4 + 1 + 4 + 4 + 4 + 4) <= 8192
    assert most * max(row_shape[0] * 4, 25) > 2000  # and they are not needlessly small


def test_messages_are_shorter_where_more_is_answered(start: START, connect: Callable[..., Client]) -> None:
    fake = start(row_shape=(20,), max_message_bytes=8192, max_rows=10**6)
    client, rows = connect(fake), rows_of(500, 20)
    fits = {}
    for options, row_bytes in (
        ({}, 80),
        ({"top_features": 3}, 80),  # 25 + 48
        ({"feature_errors": True}, 105),
        ({"top_features": 20, "feature_errors": True}, 425),
        ({"top_features": 2**31 - 1}, 345),
    ):
        fake.requests.clear()
        client.score("m", rows, **options)
        fits[row_bytes] = max(request.tensor.shape[0] for request in fake.requests)
        assert fits[row_bytes] == client.rows_per_message("m", **options) == (8192 - 1024) // row_bytes
    assert len(fits) == 4


def test_limits_are_asked_once(fake: Fake, connect: Callable[..., Client]) -> None:
    client = connect(fake)
    for _ in range(3):
        client.embed("m", rows_of(2))
    assert list(fake.calls) == ["GetModel"]


def test_a_few_messages_are_under_way_at_once(start: START, connect: Callable[..., Client]) -> None:
    together = threading.Barrier(4, timeout=20)
    first = threading.Event()

    def before(_: Any) -> None:
        if first.is_set():
            together.wait()  # passes only when four are here
        first.set()

    rows = rows_of(90)
    np.testing.assert_array_equal(
        connect(start(max_rows=10, before=before)).denoise("m", rows).values, answers.reconstruction(rows)
    )


def test_batches_are_taken_only_when_their_turn_comes(start: START, connect: Callable[..., Client]) -> None:
    taken = []

    def batches() -> Iterator[np.ndarray]:
        for i in range(100):
            taken.append(i)
            yield np.full((3, 4), i)

    stream = connect(start()).denoise_batches("m", batches())
    for i, answer in zip(range(20), stream, strict=False):
        assert (answer.values == i / 2).all()
        assert len(taken) <= i + 6
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_left_cancels_what_is_under_way(start: START, connect: Callable[..., Client]) -> None:
    fake = start()
    stay = threading.Event()

    def before(request: Any) -> None:
        if np.frombuffer(request.tensor.data, "<f4")[0] > 1:
            stay.wait(20)

    fake.before = before
    client = connect(fake)
    stream = client.embed_batches("m", (np.full((1, 4), i) for i in range(50)))
    next(stream)
    next(stream)
    while len(fake.requests) < 5:
        client.models()  # asyncio sends nothing while its loop stands still
    assert all(fake.ended.acquire(timeout=10) for _ in range(2))
    stream.close()  # type: ignore[attr-defined]
    client.models()
    assert all(fake.ended.acquire(timeout=10) for _ in range(3))  # by the client: the server is still waiting
    assert not stay.is_set()
    stay.set()


def test_one_call_never_mixes_versions(start: START, connect: Callable[..., Client]) -> None:
    fake = start(max_rows=10)

    def publish(_: Any) -> None:
        if len(fake.requests) == 1:
            return
        fake.version = 8

    fake.before = publish
    client = connect(fake)
    assert client.embed("m", rows_of(60)).model.version == 7
    assert [request.version for request in fake.requests] == [0, 7, 7, 7, 7, 7]
    assert client.embed("m", rows_of(5)).model.version == 8


def test_a_named_version_is_asked_for(start: START, connect: Callable[..., Client]) -> None:
    fake = start(max_rows=10)
    assert connect(fake).score("m", rows_of(30), version=3).model.version == 3
    assert {request.version for request in fake.requests} == {3}


# --- servers that change meanwhile ---


def updating(start: START) -> str:
    """Two servers in the middle of a rolling update, asked in turn."""
    old, new = start(version=1, loaded=(1,), max_rows=10), start(version=2, loaded=(1, 2), max_rows=10)
    return f"ipv4:{old.address},{new.address}"


def test_a_rolling_update_fails_no_call(start: START, connect: Callable[..., Client]) -> None:
    client, rows = connect(updating(start)), rows_of(95)
    for _ in range(4):  # whichever server comes first
        assert client.denoise("m", rows).model.version in (1, 2)
        np.testing.assert_array_equal(client.denoise("m", rows).values, answers.reconstruction(rows))
        streamed = list(client.embed_batches("m", np.split(rows, 19)))
        assert len({answer.model.version for answer in streamed}) == 1
        np.testing.assert_array_equal(np.concatenate([a.values for a in streamed]), answers.embedding(rows))


def test_a_version_that_some_servers_have_is_found(start: START, connect: Callable[..., Client]) -> None:
    client = connect(updating(start))
    for _ in range(3):
        assert client.model("m", 2) is not None
        assert client.score("m", rows_of(25), version=2).model.version == 2


def test_a_version_that_no_server_has_is_not_found(start: START, connect: Callable[..., Client]) -> None:
    with pytest.raises(HourglassError, match=r"version 9 is not loaded; loaded: \(1, 2\)$") as caught:
        connect(start(loaded=(1, 2))).score("m", rows_of(5), version=9)
    assert caught.value.reason == "MODEL_NOT_FOUND"


def withdrawn(start: START) -> Fake:
    """Version 2 answers once; from then on there is only version 1."""
    fake = start(version=2, loaded=(1, 2), max_rows=10)

    def before(_: Any) -> None:
        if len(fake.requests) > 1:
            fake.version, fake.loaded = 1, (1,)

    fake.before = before
    return fake


def test_an_array_is_done_again_on_a_version_that_is_there(start: START, connect: Callable[..., Client]) -> None:
    rows = rows_of(35)
    answer = connect(withdrawn(start)).denoise("m", rows)
    assert answer.model.version == 1
    np.testing.assert_array_equal(answer.values, answers.reconstruction(rows))


def test_what_was_handed_out_is_not_mixed_with_another_version(start: START, connect: Callable[..., Client]) -> None:
    stream = connect(withdrawn(start)).denoise_batches("m", [rows_of(5)] * 9)
    assert next(stream).model.version == 2
    with pytest.raises(HourglassError, match=r"Version 2 answered the first rows.*name a version.*--version") as caught:
        next(stream)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.NOT_FOUND, "version")


def test_smaller_limits_are_learned(start: START, connect: Callable[..., Client]) -> None:
    fake = start(max_rows=100)
    client, rows = connect(fake), rows_of(100)
    client.embed("m", rows)
    fake.max_rows = 30
    np.testing.assert_array_equal(client.embed("m", rows).values, answers.embedding(rows))
    assert client.rows_per_message("m") == 30
    assert sorted(request.tensor.shape[0] for request in fake.requests) == [10, 30, 30, 30, 100, 100]


def test_longer_rows_are_learned(start: START, connect: Callable[..., Client]) -> None:
    fake = start(max_message_bytes=65536)
    client = connect(fake)
    client.embed("m", rows_of(10))
    fake.row_shape = (4000,)
    rows = rows_of(10, 4000)
    np.testing.assert_array_equal(client.embed("m", rows).values, answers.embedding(rows))


def test_columns_that_come_and_go_are_learned(start: START, connect: Callable[..., Client]) -> None:
    fake, rows = start(columns=("a", "b", "c", "d")), rows_of(3).astype(np.float64)
    client, frame = connect(fake), pd.DataFrame(rows[:, ::-1], columns=["d", "c", "b", "a"])
    np.testing.assert_array_equal(client.denoise("m", frame).values, answers.reconstruction(rows))
    fake.columns = ()
    np.testing.assert_array_equal(
        client.denoise("m", frame).values, answers.reconstruction(rows[:, ::-1].astype(np.float32))
    )
    with pytest.raises(HourglassError, match="no names"):
        client.denoise("m", dict(frame))


def test_a_queue_that_our_own_messages_fill_is_waited_for(start: START, connect: Callable[..., Client]) -> None:
    """The third of five messages finds the queue full until the two behind it are answered."""
    refused = threading.Event()
    answered: set[int] = set()
    times: list[float] = []

    def before(request: Any) -> Failure | None:
        message = int(np.frombuffer(request.tensor.data, "<f4")[0])
        if message != 2:
            assert message < 3 or refused.wait(20)
            answered.add(message)
            return None
        times.append(time.monotonic())
        if len(times) < 4:
            return full
        refused.set()
        return None if answered >= {0, 1, 3, 4} else full

    full = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=150)
    rows = np.repeat(np.arange(5), 10)[:, None] * np.ones(4)
    client = connect(start(max_rows=10, before=before))
    np.testing.assert_array_equal(client.denoise("m", rows).values, rows / 2)
    assert len(times) == 5
    assert min(np.diff(times)) > 0.1  # after the delay that the server asks for


def test_a_closed_client_says_so(fake: Fake) -> None:
    client = Client(fake.address)
    client.embed("m", rows_of(1))
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        client.embed("m", rows_of(1))

    async def use() -> None:
        client = AsyncClient(fake.address)
        await client.close()
        await client.embed("m", rows_of(1))

    with pytest.raises(ValueError, match="the client is closed"):
        asyncio.run(use())


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e20])
def test_a_timeout_is_finite_and_positive(timeout: float) -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        Client("127.0.0.1:1", timeout=timeout)


@pytest.mark.parametrize(
    ("rows", "shape"), [(np.zeros(4), [4]), (np.zeros((0, 4)), [0, 4]), (3.0, []), (np.zeros((2, 5)), [2, 5])]
)
def test_the_server_judges_shapes(fake: Fake, connect: Callable[..., Client], rows: Any, shape: list[int]) -> None:
    with pytest.raises(HourglassError) as caught:
        connect(fake).score("m", rows)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(fake.requests[0].tensor.shape) == shape
    assert len(fake.requests) == 1  # a wrong input is not tried again


def test_a_wrong_shape_is_not_tried_again_under_the_same_limits(fake: Fake, connect: Callable[..., Client]) -> None:
    client = connect(fake)
    client.score("m", rows_of(1))
    with pytest.raises(HourglassError, match=r"\[2, 5\]"):
        client.score("m", np.zeros((2, 5)))
    assert len(fake.requests) == 2


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_, ">f4"])
def test_any_real_dtype_and_layout_is_sent_as_float32(fake: Fake, connect: Callable[..., Client], dtype: Any) -> None:
    rows = np.asfortranarray(np.arange(12).reshape(3, 4) % 2).astype(dtype)
    np.testing.assert_array_equal(connect(fake).denoise("m", rows).values, rows.astype(np.float32) / 2)


def test_lists_are_rows_too(fake: Fake, connect: Callable[..., Client]) -> None:
    assert connect(fake).embed("m", [[1, 2, 3, 4]]).values.tolist() == [[2, 4]]


@pytest.mark.parametrize("rows", [[["a", "b"]], [[1j]], [[None]], np.zeros(3, dtype="datetime64[s]")])
def test_what_is_not_numbers_is_a_type_error(fake: Fake, connect: Callable[..., Client], rows: Any) -> None:
    with pytest.raises(TypeError, match="real numbers"):
        connect(fake).embed("m", rows)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("score", {"top_features": "x"}, TypeError, "top_features='x': "),
        ("score", {"top_features": 2**40}, ValueError, "top_features=1099511627776: Value out of range"),
        ("score", {"threshold": "high"}, TypeError, "threshold='high': "),
        ("embed", {"version": "1"}, TypeError, "version='1': "),
        ("embed", {"require_space_id": 3}, TypeError, "require_space_id=3: "),
        ("embed", {"encoding": "int9"}, ValueError, "encoding is 'int9', none of float32, float16, int8, binary"),
        ("generate", {"seed": -1}, ValueError, "seed=-1: Value out of range"),
        ("generate", {"version": 2**70}, ValueError, "version=.*: Value out of range"),
    ],
)
def test_an_option_that_cannot_be_sent_is_named(
    fake: Fake, connect: Callable[..., Client], method: str, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(connect(fake), method)("m", 3 if method == "generate" else rows_of(2), **options)
    assert not fake.requests


def test_ragged_rows_are_a_value_error(fake: Fake, connect: Callable[..., Client]) -> None:
    with pytest.raises(ValueError, match=r"row 1 has the shape \[1\], and row 0 \[2\]"):
        connect(fake).embed("m", [[1, 2], [3]])


def test_an_error_names_the_row_of_the_call(start: START, connect: Callable[..., Client]) -> None:
    fake = start(max_rows=10)
    rows = rows_of(45)
    rows[33] = np.nan

    def before(request: Any) -> Failure | None:
        values = np.frombuffer(request.tensor.data, "<f4").reshape(request.tensor.shape)
        bad = np.flatnonzero(np.isnan(values).any(axis=1))
        code = grpc.StatusCode.INVALID_ARGUMENT
        return Failure(code, "NON_FINITE", f"row {bad[0]} is nan", "tensor", int(bad[0])) if len(bad) else None

    fake.before = before
    with pytest.raises(HourglassError) as caught:
        connect(fake).score("m", rows)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NON_FINITE")
    assert (error.field, error.row) == ("tensor", 33)
    assert "row 33" in str(error)


def test_an_error_can_be_copied() -> None:
    error = HourglassError(grpc.StatusCode.INTERNAL, "ODD", "it is odd", "tensor", 3, 0.5)
    copied = copy.copy(error)
    assert vars(copied) == vars(error)
    assert str(copied) == "it is odd"


def test_an_unknown_model_is_not_found(fake: Fake, connect: Callable[..., Client]) -> None:
    with pytest.raises(HourglassError, match="no model nobody") as caught:
        connect(fake).embed("nobody", rows_of(1))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert (caught.value.field, caught.value.row) == ("model", None)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
@pytest.mark.parametrize("count", [3, 60_000], ids=["small", "almost 1 MB"])
def test_what_may_pass_is_tried_again(
    start: START, connect: Callable[..., Client], code: grpc.StatusCode, count: int
) -> None:
    fake = start(max_rows=10**6)
    fake.failures.extend([Failure(code), Failure(code)])
    rows = rows_of(count)
    np.testing.assert_array_equal(connect(fake).denoise("m", rows).values, answers.reconstruction(rows))
    assert len(fake.requests) == 3


def test_a_full_server_says_when_to_come_back(fake: Fake, connect: Callable[..., Client]) -> None:
    fake.failures.append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=700))
    client = connect(fake)
    client.models()
    begun = time.monotonic()
    assert len(client.embed("m", rows_of(2)).values) == 2
    assert 0.65 < time.monotonic() - begun < 5


def test_a_server_that_stays_full_is_told(fake: Fake, connect: Callable[..., Client]) -> None:
    fake.failures.extend([Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=10)] * 9)
    with pytest.raises(HourglassError) as caught:
        connect(fake).embed("m", rows_of(2))
    assert (caught.value.reason, len(fake.requests)) == ("QUEUE_FULL", 4)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED])
def test_what_will_not_pass_is_not_tried_again(
    fake: Fake, connect: Callable[..., Client], code: grpc.StatusCode
) -> None:
    fake.failures.append(Failure(code, message="for good"))
    with pytest.raises(HourglassError, match="for good") as caught:
        connect(fake).embed("m", rows_of(2))
    assert (caught.value.code, caught.value.reason, len(fake.requests)) == (code, "", 1)


def test_nobody_there_names_the_address(connect: Callable[..., Client]) -> None:
    with socket.socket() as taken:  # bound and not listening: refuses, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HourglassError, match=f"no server at {address}.*is hourglass-serve running") as caught:
            connect(address).models()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")


def test_the_deadline_holds(start: START, connect: Callable[..., Client]) -> None:
    stay = threading.Event()
    fake = start(before=lambda request: stay.wait(20) and None)
    client = connect(fake, timeout=0.5)
    with pytest.raises(HourglassError, match=r"did not answer within 0.5 s: raise the timeout") as caught:
        client.embed("m", rows_of(1))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    stay.set()


def test_an_answer_of_another_size_is_refused(start: START, connect: Callable[..., Client]) -> None:
    fake = start()
    fake.Embed = lambda request, context: answers.pb.EmbedResponse()  # type: ignore[method-assign]
    with answers.serving(fake), pytest.raises(HourglassError, match="not an array of 2 rows"):
        connect(fake).embed("m", rows_of(2))


def test_a_token_travels_with_each_call(fake: Fake, connect: Callable[..., Client], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    connect(fake, token_file=token).embed("m", rows_of(1))
    assert fake.metadata[0]["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    "server",
    [
        "localhost", "localhost:1", "127.0.0.1:1", "127.8.9.1", "[::1]:1", "[::1]", "unix:/run/h.sock",
        "unix-abstract:h", "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "ipv6:[::1]:1", "dns:///localhost:1",
        "dns:localhost:1",
    ],
)  # fmt: skip
def test_a_token_stays_on_this_machine(server: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with Client(server, token_file=token) as client:
        assert ("authorization", "Bearer s3cret") in client._connection.metadata


def test_no_proxy_stands_between_us_and_this_machine(
    fake: Fake, connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert connect(fake, timeout=5).models()


@pytest.mark.parametrize(
    "server",
    [
        "example.com:8001", "dns:///10.0.0.1:8001", "127.0.0.1.evil.example:1", "127.evil.example:1",
        "localhost.evil:1", "127.1:1", "xds:///127.0.0.1:1", "dns://8.8.8.8/localhost:1", "dns://127.0.0.1/evil.example:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "[::1].evil:1", "::1", "",
    ],
)  # fmt: skip
def test_a_token_does_not_cross_a_network_in_the_clear(server: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with pytest.raises(ValueError, match="unencrypted"):
        Client(server, token_file=token)


@pytest.mark.parametrize("content", ["", "two\nlines", "schlüssel"])
def test_a_token_is_one_printable_line(content: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="one line of printable ASCII"):
        Client("127.0.0.1:1", token_file=token)


@pytest.mark.parametrize("files", [{"cert_file": "c"}, {"key_file": "k"}, {"cert_file": "c", "key_file": "k"}])
def test_half_a_certificate_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="certificate needs"):
        Client("127.0.0.1:1", **files)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, good for both sides, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "cert.pem", folder / "key.pem"
    # fmt: off
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )
    # fmt: on
    return pem, key


def test_mutual_tls(start: START, connect: Callable[..., Client], certificate: tuple[Path, Path]) -> None:
    pem, key = certificate
    fake = start(
        grpc.ssl_server_credentials(
            [(key.read_bytes(), pem.read_bytes())], root_certificates=pem.read_bytes(), require_client_auth=True
        )
    )
    assert connect(fake, ca_file=pem, cert_file=pem, key_file=key).model("m").model.version == 7
    with pytest.raises(HourglassError, match="TLS"):
        connect(fake, timeout=5).models()  # no TLS at all
    with pytest.raises(HourglassError, match="TLS"):
        connect(fake, ca_file=pem, timeout=5).models()  # no certificate of our own
