"""What is sent, and in which order: decided here once for both clients.

Each generator yields the next step and is sent that step's outcome; it does no input or output of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from hourglass import messages
from hourglass.messages import Embeddings, Generated, ModelInfo, Reconstructions, Scores
from hourglass.v1 import autoencoder_pb2 as pb

# Messages under way at once: enough to keep the server busy while answers travel.
_WINDOW = 4


class _Answer(Protocol):
    @property
    def model(self) -> messages.ModelVersion: ...


T = TypeVar("T")
A = TypeVar("A", bound=_Answer)


@dataclass(frozen=True)
class Ask:
    """Call an RPC and wait for its answer."""

    method: str
    request: Any


@dataclass(frozen=True)
class Start:
    """Call an RPC; the driver gives back the call."""

    method: str
    request: Any


@dataclass(frozen=True)
class Wait:
    """Wait for a call's answer."""

    call: Any
    first_row: int


@dataclass(frozen=True)
class Give(Generic[T]):
    """Hand a value to the caller."""

    value: T


Steps = Generator[Ask | Start | Wait | Give[T], Any, None]


@dataclass(frozen=True)
class Method(Generic[A]):
    """An RPC that takes rows, in the request's field of that name."""

    name: str
    request: Callable[..., Any]
    decode: Callable[[Any, int], A]
    field: str = "tensor"


EMBED = Method("Embed", pb.EmbedRequest, Embeddings.decode)
DENOISE = Method("Denoise", pb.DenoiseRequest, Reconstructions.decode)
SCORE = Method("Score", pb.ScoreRequest, Scores.decode)
DECODE = Method("Decode", pb.DecodeRequest, Reconstructions.decode, "embedding")


def call(method: Method[A], model: str, batches: Iterable[Any], version: int | None, **options: Any) -> Steps[A]:
    """One message for each batch, answers in order.

    The first message goes alone: the version that answers it is named in all others, so that a version published
    meanwhile does not mix into the answers.
    """
    under_way: deque[tuple[Any, int, int]] = deque()

    def finish() -> Steps[A]:
        call, first_row, rows = under_way.popleft()
        yield Give(method.decode((yield Wait(call, first_row)), rows))

    pinned: int | None = None
    next_row = 0
    try:
        for batch in batches:
            rows = messages.as_rows(batch)
            request = method.request(
                model=model, version=pinned or version or 0, **{method.field: messages.tensor(rows)}, **options
            )
            count = len(rows) if rows.ndim else 0
            if pinned is None:
                answer = method.decode((yield Ask(method.name, request)), count)
                pinned = answer.model.version
                yield Give(answer)
            else:
                if len(under_way) == _WINDOW:
                    yield from finish()
                under_way.append(((yield Start(method.name, request)), next_row, count))
            next_row += count
        while under_way:
            yield from finish()
    finally:
        for call, _, _ in under_way:
            call.cancel()


def generate(model: str, rows: int, seed: int | None, size: int, version: int | None) -> Steps[Generated]:
    """At most `size` rows a message; each message has a seed of its own, one more than the one before.

    The first answer names the version and the seed, so messages go one after the other.
    """
    pinned, first_row = version or 0, 0
    while first_row < rows or first_row == 0:
        count = min(size, rows - first_row)
        answer = yield Ask("Generate", pb.GenerateRequest(model=model, version=pinned, rows=count, seed=seed))
        yield Give(Generated.decode(answer, count))
        pinned, seed = answer.model.version, (answer.seed + 1) % 2**64
        first_row += max(count, 1)


def list_models() -> Steps[list[ModelInfo]]:
    """ListModels."""
    answer = yield Ask("ListModels", pb.ListModelsRequest())
    yield Give([ModelInfo.decode(info) for info in answer.models])


def get_model(name: str, version: int | None) -> Steps[pb.GetModelResponse]:
    """GetModel."""
    yield Give((yield Ask("GetModel", pb.GetModelRequest(model=name, version=version or 0))))
