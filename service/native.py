"""hourglass.v1.Autoencoder: decode, ask the engine, encode. No logic of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import numpy as np

from hourglass.contract.calibration import FalseAlarmRateError
from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc
from service import tensors
from service.engine import Engine, LiveModel
from service.errors import InvalidInput

SERVICE = pb.DESCRIPTOR.services_by_name["Autoencoder"].full_name

_RowsRequest = pb.EmbedRequest | pb.DenoiseRequest | pb.ScoreRequest
_Operation = Callable[[LiveModel, np.ndarray, float | None], Awaitable[np.ndarray]]


class Autoencoder(autoencoder_pb2_grpc.AutoencoderServicer):
    def __init__(self, engine: Engine, limits: pb.Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def Embed(self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext) -> pb.EmbedResponse:
        model = self._engine.get(request.model, request.version)
        embedding = await self._run(LiveModel.embed, model, request, context)
        return pb.EmbedResponse(model=_version(model), embedding=tensors.encode(embedding))

    async def Denoise(self, request: pb.DenoiseRequest, context: grpc.aio.ServicerContext) -> pb.DenoiseResponse:
        model = self._engine.get(request.model, request.version)
        reconstruction = await self._run(LiveModel.denoise, model, request, context)
        return pb.DenoiseResponse(model=_version(model), reconstruction=tensors.encode(reconstruction))

    async def Score(self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext) -> pb.ScoreResponse:
        model = self._engine.get(request.model, request.version)
        calibration = model.manifest.calibration
        asked = request.HasField("false_alarm_rate")
        false_alarm_rate = request.false_alarm_rate if asked else calibration.false_alarm_rate
        try:
            threshold = calibration.threshold(false_alarm_rate)
        except FalseAlarmRateError as error:
            raise InvalidInput(str(error), reason="BAD_FALSE_ALARM_RATE", field="false_alarm_rate") from None
        score = await self._run(LiveModel.score, model, request, context)
        return pb.ScoreResponse(
            model=_version(model),
            score=tensors.encode(score),
            p_value=tensors.encode(calibration.p_values(score)),
            is_anomaly=tensors.encode(score > threshold),
            threshold=threshold,
            false_alarm_rate=false_alarm_rate,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.GetModelResponse:
        model = self._engine.get(request.model, request.version)
        return pb.GetModelResponse(model=_info(model), limits=self._limits)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(_info, self._engine.models()), limits=self._limits)

    async def _run(
        self,
        operation: _Operation,
        model: LiveModel,
        request: _RowsRequest,
        context: grpc.aio.ServicerContext,
    ) -> np.ndarray:
        tensor = request.tensor if request.HasField("tensor") else None
        rows = tensors.decode(tensor, model.manifest.row_shape, self._limits.max_rows)
        return await operation(model, rows, context.time_remaining())


def _version(model: LiveModel) -> pb.ModelVersion:
    return pb.ModelVersion(name=model.name, version=model.version, embedding_space_id=model.manifest.embedding_space_id)


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
    )
