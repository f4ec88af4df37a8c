"""The API as a client of any language sees it: generated stubs, no client of ours."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc


def tensor(rows: np.ndarray) -> pb.Tensor:
    return pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=rows.shape, data=rows.astype("<f4").tobytes())


def values(answer: pb.Tensor) -> np.ndarray:
    dtype = {pb.DATA_TYPE_FLOAT32: "<f4", pb.DATA_TYPE_BOOL: "?", pb.DATA_TYPE_INT32: "<i4"}[answer.data_type]
    return np.frombuffer(answer.data, dtype).reshape(tuple(answer.shape))


def stub(channel: grpc.Channel) -> Any:
    return autoencoder_pb2_grpc.AutoencoderStub(channel)


class Failure:
    """What a failed call told its caller."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        self.trailer = dict(error.trailing_metadata() or ())
        self.reason, self.metadata, self.retry_seconds = "", {}, None
        status = status_pb2.Status.FromString(self.trailer.get("grpc-status-details-bin", b""))
        for detail in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            if detail.Unpack(retry):
                self.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()


def failure(call: Any, *arguments: Any, **options: Any) -> Failure:
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return Failure(error)
    raise AssertionError("the call succeeded")
