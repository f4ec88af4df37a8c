"""inference.GRPCInferenceService, the Open Inference Protocol: decode, ask the engine, encode. No logic of its own.

What it does not write itself, generated code refuses with NotImplementedError, which callers see as UNIMPLEMENTED.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata

import grpc
import numpy as np

from hourglass.contract.manifest import EMBEDDING, FEATURE_ERROR, RECONSTRUCTION, SCORE
from hourglass.contract.quantization import normalized
from service import explanation, open_models, open_parameters, open_tensors, scoring, verdicts, wire
from service.aside import FEW_NUMBERS, aside
from service.engine import Engine, LiveModel
from service.errors import InvalidInput, ModelNotFound, NotOffered
from service.index import READY
from service.oip import open_inference_pb2 as pb
from service.oip import open_inference_pb2_grpc
from service.open_models import IS_ANOMALY, TOP
from service.open_parameters import Options
from service.open_tensors import RAW
from service.pieces import Answer
from service.repository import Repository
from service.served import Served
from service.verdicts import Rule

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
WITH_ROWS = {f"/{SERVICE}/ModelInfer": RAW}
_NAME, _DISTRIBUTION = "hourglass", "hourglass-serving"
_EXTENSIONS = ("statistics", "model_configuration", "parameters", "schedule_policy")
_CONTROL = "model_repository"
_VERSION = re.compile("[1-9][0-9]{0,17}")


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The answer of a ModelInfer with raw contents is given as bytes."""

    def __init__(
        self,
        engine: Engine,
        repository: Repository,
        served: Mapping[tuple[str, int], Served],
        *,
        max_rows: int,
        delay: float,
        may_control: bool,
        ready: Callable[[], bool],
    ) -> None:
        """served: by name and version. delay: seconds for which a batch waits for more rows. may_control: whether
        callers may load and unload models. ready: whether calls should be sent here."""
        self._engine = engine
        self._repository = repository
        self._served = served
        self._max_rows = max_rows
        self._delay = delay
        self._may_control = may_control
        self._ready = ready

    async def ModelInfer(
        self, request: pb.ModelInferRequest | wire.LargeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse | bytes:
        model = self._get(request.model_name, request.model_version)
        manifest = model.manifest
        options = open_parameters.read(request.parameters)
        rule = verdicts.at_rate(options.false_alarm_rate, manifest.calibration)
        wanted = _wanted(request, model, options)
        quick = open_tensors.is_quick(request)
        rows = await aside(quick, open_tensors.decode, request, manifest, self._max_rows)
        answer = await model.infer(
            rows,
            open_models.needs(wanted),
            context.time_remaining(),
            patience=options.timeout,
            urgent=options.urgent,
        )
        await _work_out(answer, wanted, rows, options, rule, model)
        version = _signed(model.name, model.version, manifest.embedding_space_id)
        if IS_ANOMALY in wanted:
            version += _thresholds(rule.threshold, rule.false_alarm_rate)
        outputs, raw = [(name, answer[name]) for name in wanted], open_tensors.is_raw(request)
        return await aside(raw or quick, open_tensors.answer, version, request.id, outputs, raw)

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        try:
            self._get(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        extensions = (*_EXTENSIONS, _CONTROL) if self._may_control else _EXTENSIONS
        return pb.ServerMetadataResponse(name=_NAME, version=metadata.version(_DISTRIBUTION), extensions=extensions)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        model = self._get(request.name, request.version)
        return open_models.metadata(model, [one.version for one in self._loaded(model.name)])

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        model = self._get(request.name, request.version)
        return pb.ModelConfigResponse(config=open_models.config(model, self._max_rows, self._delay))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        models: Sequence[LiveModel] = self._engine.models()
        if request.name:
            one = self._get(request.name, request.version)
            models = [one] if request.version else self._loaded(request.name)
        found = [open_models.statistics(model, self._served[model.name, model.version]) for model in models]
        return pb.ModelStatisticsResponse(model_stats=found)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        listed = [one for one in self._repository.index() if one.state == READY or not request.ready]
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**vars(one)) for one in listed])

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        self._check_control("RepositoryModelLoad", request.repository_name)
        for name in request.parameters:
            open_parameters.ignore(
                name, f"parameter {name[:64]!r} of a load: models come from the server's own folder, as they are there"
            )
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        # unload_dependents, and whatever else: no model depends on another.
        self._check_control("RepositoryModelUnload", request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _get(self, name: str, version: str) -> LiveModel:
        if version and not _VERSION.fullmatch(version):
            raise InvalidInput(
                f"version is {version[:32]!r}: a number from 1 on, or nothing for the newest",
                reason="BAD_VERSION",
                field="version",
            )
        return self._engine.get(name, int(version or 0))

    def _loaded(self, name: str) -> list[LiveModel]:
        return [model for model in self._engine.models() if model.name == name]

    def _check_control(self, method: str, repository: str) -> None:
        if not self._may_control:
            raise NotOffered(f"{method} is not offered here: the server's --model-control explicit allows it")
        _check_repository(repository)


def _check_repository(name: str) -> None:
    if name:
        raise InvalidInput(
            "there is one repository, without a name: leave repository_name empty",
            reason="BAD_REPOSITORY",
            field="repository_name",
        )


def _wanted(request: pb.ModelInferRequest | wire.LargeRequest, model: LiveModel, options: Options) -> tuple[str, ...]:
    """The outputs to answer, in order. Raises InvalidInput where the model has not all of them."""
    known = open_models.names(bool(model.manifest.prior), options.top_features > 0)
    if not request.outputs:
        return known
    wanted: list[str] = []
    for output in request.outputs:
        name = output.name
        if name not in known or name in wanted:  # twice would let a short request have an answer without end
            raise _no_output(name, model.name, known)
        wanted.append(name)
        for parameter in output.parameters:
            open_parameters.ignore(
                parameter,
                f"parameter {parameter[:64]!r} of output {name!r}: there is none here, nor classification or shared "
                "memory",
            )
    return tuple(wanted)


def _no_output(name: str, model: str, known: Sequence[str]) -> InvalidInput:
    if name in known:
        problem = f"output {name!r} is requested twice"
    elif name in TOP:
        problem = f"output {name!r} needs the parameter top_features: of how many features"
    else:
        problem = f"{model!r} has no output {name[:64]!r}, but {', '.join(known)}"
    return InvalidInput(problem, reason="BAD_OUTPUT", field="outputs")


async def _work_out(
    answer: Answer, wanted: Sequence[str], rows: np.ndarray, options: Options, rule: Rule, model: LiveModel
) -> None:
    """What is asked for and not the graph's: added to its answer."""
    if IS_ANOMALY in wanted:
        answer[IS_ANOMALY] = verdicts.above(rule, answer[SCORE])
        scoring.count(model.scored, answer, answer[IS_ANOMALY])
    if options.normalize and EMBEDDING in wanted:
        answer[EMBEDDING] = normalized(answer[EMBEDDING])
    if not TOP.keys().isdisjoint(wanted):
        k = options.top_features
        errors, expected = answer[FEATURE_ERROR], answer[RECONSTRUCTION]
        top = await aside(rows.size <= FEW_NUMBERS, explanation.top_features, rows, errors, expected, k)
        answer.update({output: getattr(top, name) for output, name in TOP.items()})


@lru_cache
def _signed(name: str, version: int, space: str) -> bytes:
    """Whose answer it is: fields of the response, serialised."""
    parameters = {"embedding_space_id": pb.InferParameter(string_param=space)}
    response = pb.ModelInferResponse(model_name=name, model_version=str(version), parameters=parameters)
    return response.SerializeToString()


@lru_cache
def _thresholds(threshold: float, false_alarm_rate: float) -> bytes:
    """What its verdicts stand for."""
    numbers = {"threshold": threshold, "false_alarm_rate": false_alarm_rate}
    parameters = {name: pb.InferParameter(double_param=number) for name, number in numbers.items()}
    return pb.ModelInferResponse(parameters=parameters).SerializeToString()
