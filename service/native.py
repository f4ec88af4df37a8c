"""hourglass.v1.Autoencoder: decode, ask the engine, encode. No logic of its own."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Any

import grpc
import numpy as np

from hourglass.contract.drift import Drift, Sketch
from hourglass.contract.manifest import CLIPPED, EMBEDDING, FEATURE_ERROR, RECONSTRUCTION, RECONSTRUCTION_ERROR, SCORE
from hourglass.contract.schema import listed
from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc
from service import embeddings, explanation, scoring, table, tensors, verdicts, wire
from service.aside import FEW_NUMBERS, aside
from service.engine import Engine, LiveModel
from service.errors import InvalidInput
from service.scoring import MISSING, P_VALUE, UNKNOWN

SERVICE = pb.DESCRIPTOR.services_by_name["Autoencoder"].full_name


# Methods whose calls bring rows, and where in the request these are.
WITH_ROWS = dict.fromkeys((f"/{SERVICE}/{method}" for method in ("Embed", "Denoise", "Score", "Decode")), wire.TENSOR)
# Fields of the responses that are written as bytes.
_EMBED = wire.fields(pb.EmbedResponse)
_DENOISE = wire.fields(pb.DenoiseResponse)
_SCORE = wire.fields(pb.ScoreResponse)
_DECODE = wire.fields(pb.DecodeResponse)
_GENERATE = wire.fields(pb.GenerateResponse)
_SCORED = (SCORE, P_VALUE, RECONSTRUCTION_ERROR, CLIPPED, MISSING, UNKNOWN)


class Autoencoder(autoencoder_pb2_grpc.AutoencoderServicer):
    """Responses with tensors are given as bytes."""

    def __init__(self, engine: Engine, limits: pb.Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def Embed(self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext) -> bytes:
        model = self._engine.get(request.model, request.version, request.require_space_id)
        form = embeddings.Form.of(request, model)
        rows = await self._rows(request, model)
        answer = await model.embed(rows, context.time_remaining(), with_stddev=request.with_stddev)
        if not form.is_plain:
            numbers = answer[EMBEDDING]
            answer[EMBEDDING] = await aside(numbers.size <= FEW_NUMBERS, form.encode, numbers)
        # The graph's names are the response's.
        fields = [(_EMBED[name], values) for name, values in answer.items()]
        return wire.answer(_signature(model), fields, _form(form.scale, form.normalize))

    async def Denoise(self, request: pb.DenoiseRequest, context: grpc.aio.ServicerContext) -> bytes:
        model = self._engine.get(request.model, request.version)
        reconstruction = await model.denoise(await self._rows(request, model), context.time_remaining())
        return wire.answer(_signature(model), [(_DENOISE["reconstruction"], reconstruction)])

    async def Score(self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext) -> bytes:
        model = self._engine.get(request.model, request.version)
        rule = verdicts.rule(request, model.manifest.calibration)
        k = explanation.how_many(request.top_features)
        rows = await self._rows(request, model)
        answer = await model.score(rows, context.time_remaining(), explain=k > 0 or request.feature_errors)
        verdict = verdicts.judge(rule, answer[SCORE], answer[P_VALUE])
        answer[CLIPPED] = answer[CLIPPED].astype(np.int32)
        scoring.count(model.scored, answer, verdict.is_anomaly)
        # The answer's names are the response's.
        fields = [(_SCORE[name], answer[name]) for name in _SCORED]
        fields.append((_SCORE["is_anomaly"], verdict.is_anomaly))
        if request.feature_errors:
            fields.append((_SCORE["feature_errors"], answer[FEATURE_ERROR]))
        rest = _thresholds(verdict.threshold, verdict.false_alarm_rate)
        if k:
            few = rows.size <= FEW_NUMBERS
            top = await aside(few, explanation.top_features, rows, answer[FEATURE_ERROR], answer[RECONSTRUCTION], k)
            rest += wire.message(_SCORE["top_features"], _top_features(top))
        return wire.answer(_signature(model), fields, rest)

    async def Decode(self, request: pb.DecodeRequest, context: grpc.aio.ServicerContext) -> bytes:
        model = self._engine.get(request.model, request.version, request.require_space_id)
        rows = embeddings.read(request, model, self._limits.max_rows)
        reconstruction = await model.decode(rows, context.time_remaining())
        return wire.answer(_signature(model), [(_DECODE["reconstruction"], reconstruction)])

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> bytes:
        model = self._engine.get(request.model, request.version)
        tensors.check_count("rows", request.rows, self._limits.max_rows)
        seed = request.seed if request.HasField("seed") else secrets.randbits(64)
        rows = await model.generate(request.rows, seed, context.time_remaining())
        rest = pb.GenerateResponse(seed=seed).SerializeToString()
        return wire.answer(_signature(model), [(_GENERATE["rows"], rows)], rest)

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.GetModelResponse:
        model = self._engine.get(request.model, request.version)
        return pb.GetModelResponse(model=_info(model), limits=self._limits)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(_info, self._engine.models()), limits=self._limits)

    async def GetDrift(self, request: pb.GetDriftRequest, context: grpc.aio.ServicerContext) -> pb.GetDriftResponse:
        model = self._engine.get(request.model, request.version)
        drift = None if model.drift is None else _drift(model.drift.now())
        return pb.GetDriftResponse(model=_version(model), sketch=_sketch(model.sketch), drift=drift)

    async def _rows(
        self, request: pb.EmbedRequest | pb.DenoiseRequest | pb.ScoreRequest, model: LiveModel
    ) -> np.ndarray:
        manifest, most = model.manifest, self._limits.max_rows
        if request.WhichOneof("rows") != "table":
            return tensors.decode(
                request,
                "tensor",
                manifest.row_shape,
                most,
                schema=manifest.row_schema,
                takes_missing=manifest.takes_missing,
            )
        if manifest.row_schema is None or manifest.window is not None:
            shape = ", ".join(map(str, manifest.row_shape))
            of_windows = manifest.row_schema and f": windows of the channels {listed(manifest.row_schema.names)}"
            raise InvalidInput(
                f"{model.name!r} takes no named columns but an array (`tensor`) [n, {shape}]{of_windows or ''}",
                reason="NO_SCHEMA",
                field="table",
            )
        few = request.ByteSize() <= 4 * FEW_NUMBERS
        return await aside(few, table.decode, request.table, manifest.row_schema, most, manifest.takes_missing)


def _version(model: LiveModel) -> pb.ModelVersion:
    return pb.ModelVersion(name=model.name, version=model.version, embedding_space_id=model.manifest.embedding_space_id)


def _signature(model: LiveModel) -> bytes:
    """The first field of every response, serialised."""
    return _signed(model.name, model.version, model.manifest.embedding_space_id)


@lru_cache
def _signed(name: str, version: int, space: str) -> bytes:
    return wire.message(_SCORE["model"], pb.ModelVersion(name=name, version=version, embedding_space_id=space))


@lru_cache
def _thresholds(threshold: float, false_alarm_rate: float) -> bytes:
    return pb.ScoreResponse(threshold=threshold, false_alarm_rate=false_alarm_rate).SerializeToString()


@lru_cache
def _form(scale: float | None, normalized: bool) -> bytes:
    return pb.EmbedResponse(scale=scale, normalized=normalized).SerializeToString()


def _top_features(top: explanation.TopFeatures) -> pb.TopFeatures:
    return pb.TopFeatures(
        feature=tensors.encode(top.feature),
        share=tensors.encode(top.share),
        observed=tensors.encode(top.observed),
        expected=tensors.encode(top.expected),
    )


def _sketch(sketch: Sketch) -> pb.Sketch:
    return pb.Sketch(
        rows=sketch.rows,
        overlap=sketch.overlap,
        size=sketch.size,
        categorical=sketch.categorical,
        edges=tensors.encode(sketch.features.at),
        shares=tensors.encode(sketch.features.before),
        score_edges=tensors.encode(sketch.score.at),
        score_shares=tensors.encode(sketch.score.before),
        clipped=sketch.clipped,
    )


def _drift(drift: Drift) -> pb.Drift:
    # The message's names are the class's.
    values: dict[str, Any] = {
        name: tensors.encode(v) if isinstance(v, np.ndarray) else v for name, v in vars(drift).items()
    }
    return pb.Drift(**values)


def _info(model: LiveModel) -> pb.ModelInfo:
    manifest = model.manifest
    calibration = manifest.calibration
    return pb.ModelInfo(
        model=_version(model),
        variant=manifest.variant,
        row_shape=manifest.row_shape,
        columns=[column.name for column in manifest.columns or ()],
        embedding_size=manifest.embedding_size,
        score_definition=manifest.score.formula,
        calibration=pb.Calibration(
            rows=calibration.rows,
            false_alarm_rate=calibration.false_alarm_rate,
            threshold=calibration.threshold(calibration.false_alarm_rate),
        ),
        device=model.device,
        created=manifest.provenance.created.isoformat(),
        prior=manifest.prior or "",
        schema=[
            pb.ColumnSchema(name=column.name, type=column.type, categories=column.categories)
            for column in manifest.columns or ()
        ],
        takes_missing=manifest.takes_missing,
        encodings=embeddings.offered(model),
        precision=manifest.precision,
        aside=pb.AsideColumns(**manifest.aside.model_dump()),
        window=None if manifest.window is None else pb.Window(**manifest.window.model_dump()),
    )
