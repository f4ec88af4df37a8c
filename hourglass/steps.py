"""What is sent, and in which order: decided here once for both clients.

Each generator yields the next step and is sent that step's outcome, or is thrown the HourglassError it ended with; it
does no input or output of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, MutableMapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from hourglass import messages
from hourglass.columns import Named
from hourglass.contract.quantization import Encoding
from hourglass.errors import HourglassError
from hourglass.health import LIVENESS, READINESS, SERVICE, SERVING, Health
from hourglass.messages import Embeddings, Generated, ModelDrift, ModelInfo, Reconstructions, Scores
from hourglass.rows import ENCODINGS, ArrayRows, Rows, Terms, array_of
from hourglass.v1 import autoencoder_pb2 as pb

# Messages under way at once: enough to keep the server busy while answers travel.
_WINDOW = 4
# How often a version is asked for before it counts as missing: each time another server is asked, and while they are
# being updated some have it and others do not.
_TRIES = 8

_NOT_FOUND, _QUEUE_FULL = "MODEL_NOT_FOUND", "QUEUE_FULL"
# What rows get that were taken from columns for a model which is no more, and those that were split for its limits.
TAKEN_WRONGLY = ("MISSING_COLUMN", "NO_SCHEMA")
_SPLIT_WRONGLY = ("TOO_MANY_ROWS", "SHAPE_MISMATCH", *TAKEN_WRONGLY)


class Answer(Protocol):
    @property
    def model(self) -> messages.ModelVersion: ...

    @classmethod
    def decode(cls, answer: Any, rows: int) -> Self: ...

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self: ...

    def split(self, counts: Sequence[int]) -> list[Self]: ...


T = TypeVar("T")
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Ask:
    """Call an RPC and wait for its answer. first_row: where the request's rows began in the call."""

    method: str
    request: Any
    first_row: int = 0


@dataclass(frozen=True)
class Start:
    """Call an RPC; the driver gives back the call."""

    method: str
    request: Any


@dataclass(frozen=True)
class Wait:
    """Wait for a call's answer; may be done more than once."""

    call: Any
    first_row: int


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Give(Generic[T]):
    """Hand a value to the caller."""

    value: T


# What GetModel answered, by name and version.
Limits = MutableMapping[tuple[str, int | None], Terms]
Part = Generator[Ask | Start | Wait | Pause, Any, T]  # of a plan: hands nothing out, and has a result
Steps = Generator[Ask | Start | Wait | Pause | Give[T], Any, None]


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
        _set(self.request(), **options)

    def read(self, request: Any, answer: Any, rows: int) -> A:
        """Raises HourglassError for an answer that is not what was asked for."""
        decoded = self.answer.decode(answer, rows)
        _check_asked(request, answer)
        return decoded


EMBED = Method("Embed", pb.EmbedRequest, Embeddings)
DENOISE = Method("Denoise", pb.DenoiseRequest, Reconstructions)
SCORE = Method("Score", pb.ScoreRequest, Scores)
DECODE = Method("Decode", pb.DecodeRequest, Reconstructions, "embedding", None, encoded=True)


@dataclass(frozen=True)
class _Message:
    """Rows that are under way."""

    call: Any
    ask: Ask  # the same once more
    rows: int


def call(method: Method[A], model: str, batches: Iterable[Any], version: int | None, **options: Any) -> Steps[A]:
    """One message for each batch, answers in order.

    The first message goes alone: the version that answers it is named in all others, so that a version published
    meanwhile does not mix into the answers. A full queue is met with fewer messages at once.
    """
    under_way: deque[_Message] = deque()
    window = _WINDOW

    def finish() -> Steps[A]:
        nonlocal window
        message = under_way.popleft()
        try:
            answer = yield Wait(message.call, message.ask.first_row)
        except HourglassError as error:
            if error.reason == _QUEUE_FULL:
                window = max(1, window // 2)
            answer = yield from _once_more(message.ask, error, under_way)
        yield Give(method.read(message.ask.request, answer, message.rows))

    pinned: int | None = None
    terms: Terms | None = None  # where batches are named columns
    next_row = 0
    try:
        for batch in batches:
            if terms is None and not isinstance(batch, Rows) and Named.of(batch) is not None:
                terms = Terms.of((yield from _look_up(model, pinned or version)))
            rows = _taken(batch, terms, next_row)
            request = method.request(**method.fields(rows))
            _set(request, model=model, version=pinned or version or 0, **options)
            count = len(rows)
            if pinned is None:
                answer = method.read(request, (yield from _ask(Ask(method.name, request))), count)
                pinned = answer.model.version
                yield Give(answer)
            else:
                while len(under_way) >= window:
                    yield from finish()
                started = yield Start(method.name, request)
                under_way.append(_Message(started, Ask(method.name, request, next_row), count))
            next_row += count
        while under_way:
            yield from finish()
    finally:
        for message in under_way:
            message.call.cancel()


def array(
    method: Method[A],
    limits: Limits,
    model: str,
    rows: Any,
    version: int | None,
    **options: Any,
) -> Steps[A]:
    """All rows, in messages under the server's limits. limits: those already learned.

    Nothing is handed out before all is there, so the whole can be done again, once: with the limits of now, and on a
    version that more servers have.
    """
    method.check(model=model, version=version, **options)
    key = (model, version)
    for last in (False, True):
        learned = key in limits
        if not learned:
            limits[key] = Terms.of((yield from _look_up(model, version)))
        terms = limits[key]
        try:
            taken = terms.rows(rows) if method.table else array_of(rows)
            pieces = taken.pieces(terms.room(options))
            answers = yield from _gather(call(method, model, pieces, version, **options))
        except HourglassError as error:
            too_long = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason
            outdated = learned and (too_long or error.reason in _SPLIT_WRONGLY)
            missing = version is None and error.reason == _NOT_FOUND
            if outdated or missing:
                limits.pop(key, None)
            if last or not (outdated or missing):
                raise
            if outdated:
                limits[key] = Terms.of((yield from _look_up(model, version)))
                if limits[key] == terms:
                    raise
        else:
            yield Give(method.answer.join(answers))
            return


def learn(limits: Limits, model: str, version: int | None) -> Steps[Terms]:
    """GetModel, for calls to come."""
    limits[model, version] = Terms.of((yield from _look_up(model, version)))
    yield Give(limits[model, version])


def score(limits: Limits, model: str, rows: Any, version: int | None, **options: Any) -> Steps[Scores]:
    """As `array`. Servers control false discoveries over each message: here it is done over all rows."""
    [scores] = yield from _gather(array(SCORE, limits, model, rows, version, **options))
    yield Give(scores.fdr_controlled() if options.get("control_fdr") else scores)


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


def decode(limits: Limits, model: str, embeddings: Any, version: int | None) -> Steps[Reconstructions]:
    """As `array`. Embeddings that say where they are from are decoded there or not at all."""
    if not isinstance(embeddings, Embeddings):
        return array(DECODE, limits, model, embeddings, version)
    options = {"normalized": embeddings.normalized, "require_space_id": embeddings.model.embedding_space_id}
    return array(DECODE, limits, model, embeddings.values, version, **options)


def generate(model: str, rows: int, seed: int | None, version: int | None) -> Steps[Generated]:
    """As many rows a message as fit; each message has a seed of its own, one more than the one before.

    The first answer names the version and the seed, so messages go one after the other.
    """
    _set(pb.GenerateRequest(), rows=rows, seed=seed)
    size = Terms.of((yield from _look_up(model, version))).room({}).rows
    pinned, first_row = version or 0, 0
    while first_row < rows or first_row == 0:
        count = min(size, rows - first_row)
        request = pb.GenerateRequest()
        _set(request, model=model, version=pinned, rows=count, seed=seed)
        answer = yield from _ask(Ask("Generate", request, first_row))
        yield Give(Generated.decode(answer, count))
        pinned, seed = answer.model.version, (answer.seed + 1) % 2**64
        first_row += max(count, 1)


def list_models() -> Steps[list[ModelInfo]]:
    """ListModels."""
    answer = yield Ask("ListModels", pb.ListModelsRequest())
    yield Give([ModelInfo.decode(info) for info in answer.models])


def get_model(name: str, version: int | None) -> Steps[ModelInfo]:
    """GetModel."""
    yield Give(ModelInfo.decode((yield from _look_up(name, version)).model))


def get_drift(name: str, version: int | None) -> Steps[ModelDrift]:
    """GetDrift."""
    request = pb.GetDriftRequest()
    _set(request, model=name, version=version or 0)
    yield Give(ModelDrift.decode((yield from _ask(Ask("GetDrift", request)))))


def health() -> Steps[Health]:
    """Check of each name, and ListModels: of a HealthStub."""
    ready = yield from _serves(READINESS)
    live = yield from _serves(LIVENESS)
    service = yield from _serves(SERVICE)
    models: dict[str, bool] = {}
    for info in (yield Ask("ListModels", pb.ListModelsRequest())).models:
        if info.model.name not in models:  # once for all versions
            models[info.model.name] = yield from _serves(f"model/{info.model.name}")
    yield Give(Health(ready, live, service, models))


def _serves(name: str) -> Part[bool]:
    try:
        answer = yield Ask("Check", StringValue(value=name))
    except HourglassError as error:
        if error.code is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return bool(answer.value == SERVING)


def rows_per_message(model: str, version: int | None, **options: Any) -> Steps[int]:
    """How many rows fit in one message, by GetModel."""
    yield Give(Terms.of((yield from _look_up(model, version))).room(options).rows)


def _look_up(model: str, version: int | None) -> Part[pb.GetModelResponse]:
    request = pb.GetModelRequest()
    _set(request, model=model, version=version or 0)
    answer: pb.GetModelResponse = yield from _ask(Ask("GetModel", request))
    return answer


def _taken(batch: Any, terms: Terms | None, first_row: int) -> Rows:
    """A batch's rows; errors say where it begins in the call."""
    if isinstance(batch, Rows):
        return batch
    try:
        return array_of(batch) if terms is None else terms.rows(batch)
    except (TypeError, ValueError) as error:
        if not first_row:
            raise
        raise _as_plain(error, f"{error} (in the batch that begins with row {first_row})") from None


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


def _set(request: Any, **fields: Any) -> None:
    """Fills in a request, but for what is None. Raises TypeError or ValueError, naming the field."""
    for name, value in fields.items():
        if value is not None:
            try:
                setattr(request, name, value)
            except (TypeError, ValueError) as error:
                raise _as_plain(error, f"{name}={value!r}: {error}") from None


def _as_plain(error: Exception, message: str) -> TypeError | ValueError:
    """Subclasses take other arguments."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(message)


def _ask(ask: Ask) -> Part[Any]:
    """The answer, of any server that has the version, where one is named."""
    for _ in range(_TRIES - 1 if ask.request.version else 0):
        try:
            return (yield ask)
        except HourglassError as error:
            if error.reason != _NOT_FOUND:
                raise
    return (yield ask)


def _once_more(ask: Ask, error: HourglassError, others: Iterable[_Message]) -> Part[Any]:
    """The answer to a message that was refused with `error` after others of its call were answered."""
    if error.reason == _QUEUE_FULL:
        # The queue may be full of what we sent ourselves. How it ends is looked at when its turn comes.
        for message in others:
            with suppress(HourglassError):
                yield Wait(message.call, message.ask.first_row)
        yield Pause(error.retry_after or 0.0)
    elif error.reason != _NOT_FOUND:
        raise error
    try:
        return (yield from _ask(ask))
    except HourglassError as problem:
        if problem.reason != _NOT_FOUND:
            raise
        raise HourglassError(
            problem.code,
            problem.reason,
            f"{problem.message}. Version {ask.request.version} answered the first rows, so the servers have different "
            "versions: try again when all are updated, or name a version that all have (`version`, --version)",
            problem.field,
        ) from None


def _gather(plan: Steps[T]) -> Part[list[T]]:
    """Carries a plan out; all that it hands out."""
    given: list[T] = []
    resume: Callable[[], Any] = partial(next, plan)
    with closing(plan):
        while True:
            try:
                step = resume()
            except StopIteration:
                return given
            if isinstance(step, Give):
                given.append(step.value)
                resume = partial(next, plan)
                continue
            try:
                resume = partial(plan.send, (yield step))
            except HourglassError as error:
                resume = partial(plan.throw, error)
