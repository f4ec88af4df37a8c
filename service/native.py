"""hourglass.v1.Autoencoder: decode, ask the engine, encode. No logic of its own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import numpy as np

from hourglass.contract.drift import Drift, Sketch
from hourglass.contract.manifest import CLIPPED, FEATURE_ERROR, RECONSTRUCTION, RECONSTRUCTION_ERROR, SCORE
from hourglass.contract.schema import listed
from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc
from service import explanation, table, tensors, verdicts
from service.engine import Engine, LiveModel
from service.errors import InvalidInput
from service.metrics import Metrics

SERVICE = pb.DESCRIPTOR.services_by_name["Autoencoder"].full_name


class Autoencoder(autoencoder_pb2_grpc.AutoencoderServicer):
    def __init__(self, engine: Engine, limits: pb.Limits, metrics: Metrics) -> None:
        self._engine = engine
        self._limits = limits
        self._metrics = metrics

    async def Embed(self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext) -> pb.EmbedResponse:
        model = self._engine.get(request.model, request.version)
        rows = self._rows(request, model)
        answer = await model.embed(rows, context.time_remaining(), with_stddev=request.with_stddev)
        # The graph's names are the response's.
        return pb.EmbedResponse(model=_version(model), **{name: tensors.encode(a) for name, a in answer.items()})

    async def Denoise(self, request: pb.DenoiseRequest, context: grpc.aio.ServicerContext) -> pb.DenoiseResponse:
        model = self._engine.get(request.model, request.version)
        reconstruction = await model.denoise(self._rows(request, model), context.time_remaining())
        return pb.DenoiseResponse(model=_version(model), reconstruction=tensors.encode(reconstruction))

    async def Score(self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext) -> pb.ScoreResponse:
        model = self._engine.get(request.model, request.version)
        calibration = model.manifest.calibration
        rule, k = verdicts.rule(request, calibration), explanation.how_many(request)
        rows = self._rows(request, model)
        answer = await model.score(rows, context.time_remaining(), explain=k > 0 or request.feature_errors)
        verdict = verdicts.judge(rule, calibration, answer[SCORE])
        clipped = answer[CLIPPED].astype(np.int32)
        missing, unknown = _counts(rows, model)
        self._metrics.scored(
            model,
            rows=len(rows),
            anomalies=int(verdict.is_anomaly.sum()),
            clipped=int(clipped.sum()),
            missing=int(missing.sum()),
            unknown=int(unknown.sum()),
        )
        response = pb.ScoreResponse(
            model=_version(model),
            score=tensors.encode(answer[SCORE]),
            p_value=tensors.encode(verdict.p_value),
            is_anomaly=tensors.encode(verdict.is_anomaly),
            threshold=verdict.threshold,
            false_alarm_rate=verdict.false_alarm_rate,
            reconstruction_error=tensors.encode(answer[RECONSTRUCTION_ERROR]),
            clipped=tensors.encode(clipped),
            missing=tensors.encode(missing),
            unknown=tensors.encode(unknown),
        )
        if k:
            errors = answer[FEATURE_ERROR], answer[RECONSTRUCTION]
            # In a thread: of many wide rows it takes long enough for other calls to notice.
            top = await asyncio.to_thread(explanation.top_features, rows, *errors, k)
            response.top_features.CopyFrom(_top_features(top))
        if request.feature_errors:
            response.feature_errors.CopyFrom(tensors.encode(answer[FEATURE_ERROR]))
        return response

    async def Decode(self, request: pb.DecodeRequest, context: grpc.aio.ServicerContext) -> pb.DecodeResponse:
        model = self._engine.get(request.model, request.version)
        size = model.manifest.embedding_size
        embeddings = tensors.decode(request, "embedding", [size], self._limits.max_rows)
        reconstruction = await model.decode(embeddings, context.time_remaining())
        return pb.DecodeResponse(model=_version(model), reconstruction=tensors.encode(reconstruction))

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        model = self._engine.get(request.model, request.version)
        tensors.check_count("rows", request.rows, self._limits.max_rows)
        seed = request.seed if request.HasField("seed") else secrets.randbits(64)
        rows = await model.generate(request.rows, seed, context.time_remaining())
        return pb.GenerateResponse(model=_version(model), rows=tensors.encode(rows), seed=seed)

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

    def _rows(self, request: pb.EmbedRequest | pb.DenoiseRequest | pb.ScoreRequest, model: LiveModel) -> np.ndarray:
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
        return table.decode(request.table, manifest.row_schema, most, takes_missing=manifest.takes_missing)


def _version(model: LiveModel) -> pb.ModelVersion:
    return pb.ModelVersion(name=model.name, version=model.version, embedding_space_id=model.manifest.embedding_space_id)


def _counts(rows: np.ndarray, model: LiveModel) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the cells that are missing, and the categories that are unknown: int32 [n] each."""
    missing = unknown = np.zeros(len(rows), dtype=np.int32)
    if model.manifest.takes_missing:
        missing = np.isnan(rows).reshape(len(rows), -1).sum(axis=1, dtype=np.int32)
    if model.manifest.row_schema is not None:
        unknown = model.manifest.row_schema.unknown(rows)
    return missing, unknown


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
        aside=pb.AsideColumns(**manifest.aside.model_dump()),
        window=None if manifest.window is None else pb.Window(**manifest.window.model_dump()),
    )
