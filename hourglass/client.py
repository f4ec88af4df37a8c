"""numpy in, numpy out.

    with Client("127.0.0.1:8001") as client:
        scores = client.score("pumps", rows)  # rows: [n, ...row shape], or columns by name

Large arrays are sent as several messages, a few at a time, and answered in order by one version of the model.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import grpc
import grpc.aio

from hourglass import requests, steps
from hourglass.coalescing import Coalescer
from hourglass.columns import RowsLike
from hourglass.connection import Connection
from hourglass.contract.quantization import Encoding
from hourglass.errors import HourglassError, from_rpc
from hourglass.health import Health, HealthStub
from hourglass.messages import Embeddings, Generated, ModelDrift, Reconstructions, Scores
from hourglass.models import ModelInfo
from hourglass.steps import Ask, Give, Pause, Start, Steps, Wait
from hourglass.v1.autoencoder_pb2_grpc import AutoencoderStub

T = TypeVar("T")


class _Base(ABC):
    """What both clients are made of: a channel, and the limits already learned."""

    _library: ClassVar[Any]

    def __init__(
        self,
        server: str,
        *,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        token_file: str | Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        """server: HOST:PORT, or any gRPC target. timeout: seconds for each RPC, its retries by gRPC included.

        TLS is used when `ca_file` is given; `hourglass.connection.Connection` says how the files go together.
        """
        self._connection = Connection(server, ca_file, cert_file, key_file, token_file, timeout)
        self._channel = self._connection.open(self._library)
        self._stub = AutoencoderStub(self._channel)
        self._limits: steps.Limits = {}
        self._closed = False
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """What only one of the clients has."""

    def _rpc(self, method: str, stub: HealthStub | None) -> Any:
        if self._closed:
            raise ValueError("the client is closed: make a new one")
        return getattr(stub or self._stub, method)

    def _begin(self, call: Callable[..., Any], request: Any) -> Any:
        return call(request, timeout=self._connection.timeout, metadata=self._connection.metadata)

    def _error(self, error: grpc.RpcError, step: Any) -> HourglassError:
        first_row = step.first_row if isinstance(step, Ask | Wait) else 0
        return from_rpc(error, self._connection.server, self._connection.timeout, first_row)


class Client(_Base):
    """The blocking client; safe to share between threads. A context manager.

    Methods raise HourglassError, TypeError or ValueError for rows that are no numbers or columns, and ValueError once
    the client is closed.
    """

    _library = grpc

    def _prepare(self) -> None:
        # A Ctrl-C reaches the main thread; inside gRPC's bookkeeping of a call that begins, it would leave the channel
        # waiting for that call for ever. So calls begin on a thread of their own.
        self._starter = ThreadPoolExecutor(1, "hourglass-start")

    def models(self) -> list[ModelInfo]:
        """Every loaded version of every model, by name, newest version first."""
        return self._only(steps.list_models())

    def model(self, name: str, version: int | None = None) -> ModelInfo:
        """What a model takes and gives; the newest version unless one is named."""
        return self._only(steps.get_model(name, version))

    def drift(self, name: str, version: int | None = None) -> ModelDrift:
        """How far the rows that came to the server last are from the calibration rows, and what those look like."""
        return self._only(steps.get_drift(name, version))

    def health(self) -> Health:
        """What one server says of itself, also while it drains and no other call goes there."""
        with self._connection.open(grpc, balanced=False) as channel:
            return self._only(steps.health(), HealthStub(channel))

    def embed(
        self,
        model: str,
        rows: RowsLike,
        *,
        version: int | None = None,
        with_stddev: bool = False,
        normalize: bool = False,
        encoding: Encoding = "float32",
        require_space_id: str | None = None,
    ) -> Embeddings:
        """rows: array-like [n, ...row shape], n >= 1, in the units of the training data; or, of models with a schema,
        columns by name: a dict of array-likes [n] of numbers, bools or texts, None where one is missing, or a DataFrame
        or table of pandas, polars or pyarrow, in any order and with others among them. Of other models a frame's
        columns are an array in their order. with_stddev: also how sure each number is, of models with a prior.
        normalize: to length 1. encoding: what the numbers come as, of `Embeddings`. require_space_id: answer only in
        this embedding space, that of an index."""
        options = requests.embedding(
            with_stddev=with_stddev, normalize=normalize, encoding=encoding, require_space_id=require_space_id
        )
        return self._only(steps.array(requests.EMBED, self._limits, model, rows, version, **options))

    def denoise(self, model: str, rows: RowsLike, *, version: int | None = None) -> Reconstructions:
        """rows: as for `embed`."""
        return self._only(steps.array(requests.DENOISE, self._limits, model, rows, version))

    def score(
        self,
        model: str,
        rows: RowsLike,
        *,
        version: int | None = None,
        false_alarm_rate: float | None = None,
        threshold: float | None = None,
        control_fdr: bool = False,
        top_features: int = 0,
        feature_errors: bool = False,
    ) -> Scores:
        """rows: as for `embed`. false_alarm_rate: share of normal rows that may be called anomalies; None: the
        model's own. threshold: instead, a threshold on the score. control_fdr: of all rows of this call that are called
        anomalies, on average at most the share false_alarm_rate is normal. top_features: how many features to name
        beside each score. feature_errors: also each feature's part in it."""
        plan = steps.score(
            self._limits,
            model,
            rows,
            version,
            false_alarm_rate=false_alarm_rate,
            threshold=threshold,
            control_fdr=control_fdr,
            top_features=top_features,
            feature_errors=feature_errors,
        )
        return self._only(plan)

    def decode(self, model: str, embeddings: Embeddings | RowsLike, *, version: int | None = None) -> Reconstructions:
        """embeddings: `Embeddings`, or array-like [n, embedding size] of the model's own embedding space: an int8 array
        holds the whole numbers, any other the numbers -> the rows they stand for. Normalised and binary ones stand for
        none."""
        return self._only(steps.decode(self._limits, model, embeddings, version))

    def generate(self, model: str, rows: int, *, seed: int | None = None, version: int | None = None) -> Generated:
        """New rows, drawn from the model's prior. seed: the same one gives the same rows; None: the server's choice."""
        return Generated.join(list(self.generate_batches(model, rows, seed=seed, version=version)))

    def generate_batches(
        self, model: str, rows: int, *, seed: int | None = None, version: int | None = None
    ) -> Iterator[Generated]:
        """As `generate`, message by message: for more rows than fit in memory."""
        return self._carry_out(steps.generate(model, rows, seed, version))

    def embed_batches(
        self,
        model: str,
        batches: Iterable[RowsLike],
        *,
        version: int | None = None,
        with_stddev: bool = False,
        normalize: bool = False,
        encoding: Encoding = "float32",
        require_space_id: str | None = None,
    ) -> Iterator[Embeddings]:
        """One answer for each batch, in order, while later batches are under way: for data larger than memory.

        Each batch is one message: at most `rows_per_message` rows, and of columns by name `Limits.max_message_bytes`.
        The rest is as of `embed`.
        """
        options = requests.embedding(
            with_stddev=with_stddev, normalize=normalize, encoding=encoding, require_space_id=require_space_id
        )
        return self._carry_out(steps.call(requests.EMBED, model, batches, version, **options))

    def denoise_batches(
        self, model: str, batches: Iterable[RowsLike], *, version: int | None = None
    ) -> Iterator[Reconstructions]:
        """As `embed_batches`."""
        return self._carry_out(steps.call(requests.DENOISE, model, batches, version))

    def score_batches(
        self,
        model: str,
        batches: Iterable[RowsLike],
        *,
        version: int | None = None,
        false_alarm_rate: float | None = None,
        threshold: float | None = None,
        top_features: int = 0,
        feature_errors: bool = False,
    ) -> Iterator[Scores]:
        """As `embed_batches` and `score`. The false discovery rate is one of all rows together, and so cannot be
        controlled on the way: `benjamini_hochberg` does it with the p-values of all answers."""
        plan = steps.call(
            requests.SCORE,
            model,
            batches,
            version,
            false_alarm_rate=false_alarm_rate,
            threshold=threshold,
            top_features=top_features,
            feature_errors=feature_errors,
        )
        return self._carry_out(plan)

    def rows_per_message(
        self, model: str, version: int | None = None, *, top_features: int = 0, feature_errors: bool = False
    ) -> int:
        """How many of the model's rows fit in one message, as the server has it now, if so much of each is asked."""
        return self._only(
            steps.rows_per_message(model, version, top_features=top_features, feature_errors=feature_errors)
        )

    def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        self._channel.close()
        self._starter.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _only(self, plan: Steps[T], stub: HealthStub | None = None) -> T:
        [answer] = self._carry_out(plan, stub)
        return answer

    def _carry_out(self, plan: Steps[T], stub: HealthStub | None = None) -> Iterator[T]:
        resume: Callable[[], Any] = partial(next, plan)
        with closing(plan):
            while True:
                try:
                    step = resume()
                except StopIteration:
                    return
                reply: Any = None
                try:
                    match step:
                        case Ask(method, request):
                            reply = self._begin(self._rpc(method, stub), request)
                        case Start(method, request):
                            reply = self._starter.submit(self._begin, self._rpc(method, stub).future, request).result()
                        case Wait(call):
                            reply = call.result()
                        case Pause(seconds):
                            time.sleep(seconds)
                        case Give(value):
                            yield value
                    resume = partial(plan.send, reply)
                except grpc.RpcError as error:
                    resume = partial(plan.throw, self._error(error, step))


def blocking(client: object) -> Client:
    """The client, where it is the blocking one. Raises TypeError."""
    if not isinstance(client, Client):
        raise TypeError(f"client is of type {type(client).__name__}: an index takes hourglass.Client, also in a thread")
    return client


class AsyncClient(_Base):
    """The asyncio client, made and used inside one running loop. An asynchronous context manager.

    Every method is `Client`'s, awaited. Many tasks may each ask for a row: calls of `embed`, `denoise` and `score` that
    wait at the same time share messages (`hourglass.coalescing`).
    """

    _library = grpc.aio

    def _prepare(self) -> None:
        self._coalescer = Coalescer(self._only, self._limits)

    async def models(self) -> list[ModelInfo]:
        return await self._only(steps.list_models())

    async def model(self, name: str, version: int | None = None) -> ModelInfo:
        return await self._only(steps.get_model(name, version))

    async def drift(self, name: str, version: int | None = None) -> ModelDrift:
        return await self._only(steps.get_drift(name, version))

    async def health(self) -> Health:
        async with self._connection.open(grpc.aio, balanced=False) as channel:
            return await self._only(steps.health(), HealthStub(channel))

    async def embed(
        self,
        model: str,
        rows: RowsLike,
        *,
        version: int | None = None,
        with_stddev: bool = False,
        normalize: bool = False,
        encoding: Encoding = "float32",
        require_space_id: str | None = None,
    ) -> Embeddings:
        options = requests.embedding(
            with_stddev=with_stddev, normalize=normalize, encoding=encoding, require_space_id=require_space_id
        )
        return await self._coalescer.ask(requests.EMBED, model, rows, version, **options)

    async def denoise(self, model: str, rows: RowsLike, *, version: int | None = None) -> Reconstructions:
        return await self._coalescer.ask(requests.DENOISE, model, rows, version)

    async def score(
        self,
        model: str,
        rows: RowsLike,
        *,
        version: int | None = None,
        false_alarm_rate: float | None = None,
        threshold: float | None = None,
        control_fdr: bool = False,
        top_features: int = 0,
        feature_errors: bool = False,
    ) -> Scores:
        options: dict[str, Any] = {
            "false_alarm_rate": false_alarm_rate,
            "threshold": threshold,
            "top_features": top_features,
            "feature_errors": feature_errors,
        }
        if control_fdr:  # verdicts that depend on the other rows of the call
            return await self._only(steps.score(self._limits, model, rows, version, control_fdr=True, **options))
        return await self._coalescer.ask(requests.SCORE, model, rows, version, **options)

    async def decode(
        self, model: str, embeddings: Embeddings | RowsLike, *, version: int | None = None
    ) -> Reconstructions:
        return await self._only(steps.decode(self._limits, model, embeddings, version))

    async def generate(
        self, model: str, rows: int, *, seed: int | None = None, version: int | None = None
    ) -> Generated:
        answers = self._carry_out(steps.generate(model, rows, seed, version))
        return Generated.join([part async for part in answers])

    def embed_batches(
        self,
        model: str,
        batches: Iterable[RowsLike],
        *,
        version: int | None = None,
        with_stddev: bool = False,
        normalize: bool = False,
        encoding: Encoding = "float32",
        require_space_id: str | None = None,
    ) -> AsyncIterator[Embeddings]:
        options = requests.embedding(
            with_stddev=with_stddev, normalize=normalize, encoding=encoding, require_space_id=require_space_id
        )
        return self._carry_out(steps.call(requests.EMBED, model, batches, version, **options))

    def denoise_batches(
        self, model: str, batches: Iterable[RowsLike], *, version: int | None = None
    ) -> AsyncIterator[Reconstructions]:
        return self._carry_out(steps.call(requests.DENOISE, model, batches, version))

    def score_batches(
        self,
        model: str,
        batches: Iterable[RowsLike],
        *,
        version: int | None = None,
        false_alarm_rate: float | None = None,
        threshold: float | None = None,
        top_features: int = 0,
        feature_errors: bool = False,
    ) -> AsyncIterator[Scores]:
        plan = steps.call(
            requests.SCORE,
            model,
            batches,
            version,
            false_alarm_rate=false_alarm_rate,
            threshold=threshold,
            top_features=top_features,
            feature_errors=feature_errors,
        )
        return self._carry_out(plan)

    async def rows_per_message(
        self, model: str, version: int | None = None, *, top_features: int = 0, feature_errors: bool = False
    ) -> int:
        return await self._only(
            steps.rows_per_message(model, version, top_features=top_features, feature_errors=feature_errors)
        )

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _only(self, plan: Steps[T], stub: HealthStub | None = None) -> T:
        [answer] = [answer async for answer in self._carry_out(plan, stub)]
        return answer

    async def _carry_out(self, plan: Steps[T], stub: HealthStub | None = None) -> AsyncIterator[T]:
        resume: Callable[[], Any] = partial(next, plan)
        with closing(plan):
            while True:
                try:
                    step = resume()
                except StopIteration:
                    return
                reply: Any = None
                try:
                    match step:
                        case Ask(method, request):
                            reply = await self._begin(self._rpc(method, stub), request)
                        case Start(method, request):
                            reply = self._begin(self._rpc(method, stub), request)
                        case Wait(call):
                            reply = await call
                        case Pause(seconds):
                            await asyncio.sleep(seconds)
                        case Give(value):
                            yield value
                    resume = partial(plan.send, reply)
                except grpc.RpcError as error:
                    resume = partial(plan.throw, self._error(error, step))
