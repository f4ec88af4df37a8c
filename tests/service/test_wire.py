"""Bytes that are written by hand are the message's own."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hourglass.v1 import autoencoder_pb2 as pb
from service import wire

DTYPES = {"f": pb.DATA_TYPE_FLOAT32, "i": pb.DATA_TYPE_INT32, "b": pb.DATA_TYPE_BOOL}
arrays = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "?"]).flatmap(
    lambda dtype: npst.arrays(
        dtype,
        npst.array_shapes(min_dims=1, max_dims=3, max_side=30),
        elements=st.booleans() if dtype == "?" else st.integers(-9, 9),
        fill=st.just(1),
    )
)


def tensor(values: np.ndarray) -> pb.Tensor:
    kind = values.dtype.kind
    data = values.astype({"f": "<f4", "i": "<i4", "b": "?"}[kind]).tobytes()
    return pb.Tensor(data_type=DTYPES[kind], shape=values.shape, data=data)


@example(np.ones((3000, 7), dtype="<f4"), np.ones(1, dtype="<i4"), False)
@given(arrays, arrays, st.booleans())
def test_an_answer_is_the_messages_bytes(first: np.ndarray, second: np.ndarray, reversed_: bool) -> None:
    if reversed_:
        first = first[::-1]  # not contiguous
    version = pb.ModelVersion(name="m" * 60, version=2**40, embedding_space_id="0" * 16)
    expected = pb.ScoreResponse(
        model=version, score=tensor(first), feature_errors=tensor(second), threshold=1.5, false_alarm_rate=0.01
    )
    fields = wire.fields(pb.ScoreResponse)
    rest = pb.ScoreResponse(threshold=1.5, false_alarm_rate=0.01).SerializeToString()
    written = wire.answer(
        wire.message(fields["model"], version), [(fields["score"], first), (fields["feature_errors"], second)], rest
    )
    assert pb.ScoreResponse.FromString(written) == expected
    assert len(written) == expected.ByteSize()


REQUEST = pb.ScoreRequest(
    model="m", version=2**50, tensor=tensor(np.arange(600.0).reshape(2, 300)), false_alarm_rate=0.1, top_features=3
)


def same(received: bytes) -> bool:
    """Whether the data was left beside the message, which is otherwise the one that was sent."""
    large = wire.large_request(received, pb.ScoreRequest.FromString, wire.TENSOR)
    if large is None:
        return False
    whole = pb.ScoreRequest.FromString(received)
    assert large.data == whole.tensor.data
    assert large.model == whole.model
    assert large.HasField("tensor")
    whole.tensor.ClearField("data")
    assert large.message == whole
    return True


def test_the_data_of_a_large_request_stays_where_it_is() -> None:
    assert same(REQUEST.SerializeToString())
    unknown = b"\x98\x06\x01" + b"\xa2\x06\x03abc"  # fields 99 and 100
    assert same(unknown + REQUEST.SerializeToString() + unknown)


def test_what_is_laid_out_in_another_way_is_parsed_whole() -> None:
    twice = REQUEST.SerializeToString() * 2
    no_tensor = pb.ScoreRequest(model="m" * 100).SerializeToString()
    no_data = pb.ScoreRequest(model="m", tensor=pb.Tensor(shape=[1, 2])).SerializeToString()
    rows = pb.GenerateRequest(model="m", rows=5).SerializeToString()  # field 3 is no tensor there
    sent = REQUEST.SerializeToString()
    group = sent + b"\x9b\x06\x9c\x06"
    many = sent + b"\x98\x06\x01" * 50  # what millions of them would cost in Python, protobuf reads at once
    for received in (b"", twice, no_tensor, no_data, rows, group, many):
        assert not same(received)


def test_a_tag_that_protobuf_refuses_is_not_taken() -> None:
    sent = REQUEST.SerializeToString()
    place = sent.index(b"\x1a")
    overlong = sent[:place] + b"\x9a\x80\x80\x80\x80\x00" + sent[place + 1 :]
    with pytest.raises(DecodeError):
        pb.ScoreRequest.FromString(overlong)
    assert wire.large_request(overlong, pb.ScoreRequest.FromString, wire.TENSOR) is None


@given(st.binary(max_size=64), st.integers(0, 2000), st.integers(0, 2000))
def test_damaged_requests_are_parsed_as_the_message_would_be(noise: bytes, start: int, end: int) -> None:
    """Cut, or with bytes changed: either both refuse them, or both read the same."""
    sent = REQUEST.SerializeToString()
    start, end = sorted((start % len(sent), end % len(sent)))
    received = sent[:start] + noise + sent[end:]
    try:
        whole = pb.ScoreRequest.FromString(received)
    except DecodeError:
        with contextlib.suppress(DecodeError):
            large = wire.large_request(received, pb.ScoreRequest.FromString, wire.TENSOR)
            assert large is None, "the message refuses what was taken"
        return
    large = wire.large_request(received, pb.ScoreRequest.FromString, wire.TENSOR)
    if large is not None:
        data = whole.tensor.data
        whole.tensor.ClearField("data")
        assert (bytes(large.data), large.message) == (data, whole)
