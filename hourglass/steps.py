"""What is sent, and in which order: decided here once for both clients.

Each generator yields the next step and is sent that step's outcome, or is thrown the HourglassError it ended with; it
does no input or output of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, MutableMapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from hourglass.columns import Named
from hourglass.errors import HourglassError
from hourglass.health import LIVENESS, READINESS, SERVICE, SERVING, Health
from hourglass.messages import Embeddings, Generated, ModelDrift, Reconstructions, Scores
from hourglass.models import ModelInfo
from hourglass.requests import DECODE, SCORE, A, Method, as_plain, fill
from hourglass.rows import Rows, Terms, array_of
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


T = TypeVar("T")


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
            fill(request, model=model, version=pinned or version or 0, **options)
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
    fill(pb.GenerateRequest(), rows=rows, seed=seed)
    size = Terms.of((yield from _look_up(model, version))).room({}).rows
    pinned, first_row = version or 0, 0
    while first_row < rows or first_row == 0:
        count = min(size, rows - first_row)
        request = pb.GenerateRequest()
        fill(request, model=model, version=pinned, rows=count, seed=seed)
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
    fill(request, model=name, version=version or 0)
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
    fill(request, model=model, version=version or 0)
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
        raise as_plain(error, f"{error} (in the batch that begins with row {first_row})") from None


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
