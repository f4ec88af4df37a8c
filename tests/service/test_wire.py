"""Bytes that are written by hand are the message's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hourglass.v1 import autoencoder_pb2 as pb
from service import wire

DTYPES = {"f": pb.DATA_TYPE_FLOAT32, "i": pb.DATA_TYPE_INT32, "b": pb.DATA_TYPE_BOOL}
arrays = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "?"]).flatmap(
    lambda dtype: npst.arrays(
        dtype,
        npst.array_shapes(min_dims=1, max_dims=3, max_side=300),
        elements=st.booleans() if dtype == "?" else st.integers(-9, 9),
        fill=st.just(1),
    )
)


def tensor(values: np.ndarray) -> pb.Tensor:
    kind = values.dtype.kind
    data = values.astype({"f": "<f4", "i": "<i4", "b": "?"}[kind]).tobytes()
    return pb.Tensor(data_type=DTYPES[kind], shape=values.shape, data=data)


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
