"""Requests: which RPCs take rows, what is filled in, and whether an answer is one to what was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc

from hourglass.contract.quantization import Encoding
from hourglass.errors import HourglassError
from hourglass.messages import Embeddings, Reconstructions, Scores
from hourglass.models import ModelVersion
from hourglass.rows import ENCODINGS, ArrayRows, Rows
from hourglass.v1 import autoencoder_pb2 as pb


class Answer(Protocol):
    @property
    def model(self) -> ModelVersion: ...

    @classmethod
    def decode(cls, answer: Any, rows: int) -> Self: ...

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self: ...

    def split(self, counts: Sequence[int]) -> list[Self]: ...


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Method(Generic[A]):
    """An RPC that takes rows: an array in the request's field of that name, and named columns in another. encoded:
    whether half floats and bytes of an array are encoded embeddings."""

    name: str
    request: Callable[..., Any]
    answer: type[A]
    array: str = "tensor"
    table: str | None = "table"
    encoded: bool = False

    def fields(self, rows: Rows) -> dict[str, Any]:
        """Of the request, those that hold the rows."""
        if isinstance(rows, ArrayRows):
            return {self.array: rows.message(self.encoded)}
        assert self.table is not None
        return {self.table: rows.message()}

    def check(self, **options: Any) -> None:
        """Raises TypeError or ValueError, naming the option that the request cannot hold."""
        fill(self.request(), **options)

    def read(self, request: Any, answer: Any, rows: int) -> A:
        """Raises HourglassError for an answer that is not what was asked for."""
        decoded = self.answer.decode(answer, rows)
        _check_asked(request, answer)
        return decoded


EMBED = Method("Embed", pb.EmbedRequest, Embeddings)
DENOISE = Method("Denoise", pb.DenoiseRequest, Reconstructions)
SCORE = Method("Score", pb.ScoreRequest, Scores)
DECODE = Method("Decode", pb.DecodeRequest, Reconstructions, "embedding", None, encoded=True)


def check_encoding(encoding: object) -> None:
    """Raises ValueError."""
    if encoding not in tuple(ENCODINGS):  # which also asks what cannot be hashed
        raise ValueError(f"encoding is {encoding!r}, none of {', '.join(ENCODINGS)}")


def embedding(
    *, with_stddev: bool, normalize: bool, encoding: Encoding, require_space_id: str | None
) -> dict[str, Any]:
    """The options of an EmbedRequest, by its names. Raises ValueError for what is no encoding, or no space."""
    check_encoding(encoding)
    if require_space_id == "":
        raise ValueError("require_space_id is empty: give an embedding_space_id, or None for any")
    return {
        "with_stddev": with_stddev,
        "normalize": normalize,
        "encoding": ENCODINGS[encoding],
        "require_space_id": require_space_id or "",
    }


def _check_asked(request: Any, answer: Any) -> None:
    """A server that is older than a field of the request answers as if it were not set. Raises HourglassError."""
    ignored = None
    if isinstance(request, pb.EmbedRequest):
        if answer.embedding.data_type != (request.encoding or pb.DATA_TYPE_FLOAT32):
            ignored = "encoding"
        elif answer.normalized != request.normalize:
            ignored = "normalize"
    elif isinstance(request, pb.DecodeRequest) and request.normalized:  # which others refuse
        ignored = "normalized"
    if getattr(request, "require_space_id", "") not in ("", answer.model.embedding_space_id):
        ignored = "require_space_id"
    if ignored is not None:
        raise HourglassError(
            grpc.StatusCode.UNIMPLEMENTED,
            "OLD_SERVER",
            f"the server answered as if `{ignored}` were not set: it is older than that: update it",
            ignored,
        )


def fill(request: Any, **fields: Any) -> None:
    """Fills in a request, but for what is None. Raises TypeError or ValueError, naming the field."""
    for name, value in fields.items():
        if value is not None:
            try:
                setattr(request, name, value)
            except (TypeError, ValueError) as error:
                raise as_plain(error, f"{name}={value!r}: {error}") from None


def as_plain(error: Exception, message: str) -> TypeError | ValueError:
    """Subclasses take other arguments."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(message)
