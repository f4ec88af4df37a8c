"""What the Open Inference Protocol says of a model: its outputs, metadata, Triton's configuration and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from hourglass.contract.manifest import (
    CLIPPED,
    EMBEDDING,
    EMBEDDING_STDDEV,
    FEATURE_ERROR,
    INPUT,
    RECONSTRUCTION,
    RECONSTRUCTION_ERROR,
    SCORE,
    Manifest,
)
from service.engine import LiveModel
from service.oip import open_inference_pb2 as pb
from service.open_parameters import PRIORITIES
from service.open_tensors import DATATYPES
from service.scoring import MISSING, P_VALUE, UNKNOWN
from service.served import Served

IS_ANOMALY = "is_anomaly"
# With the parameter top_features only: the fields of explanation.TopFeatures.
TOP = {f"top_{name}": name for name in ("feature", "share", "observed", "expected")}
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
# Outputs that are no output of the graph alone: what is run for them. A verdict counts in the metrics of scored rows,
# as one of hourglass.v1 does, and so needs what these count.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    P_VALUE: (SCORE, P_VALUE),
    IS_ANOMALY: (SCORE, CLIPPED, MISSING, UNKNOWN),
    **dict.fromkeys(TOP, (FEATURE_ERROR, RECONSTRUCTION)),
}


def outputs(manifest: Manifest) -> dict[str, tuple[str, list[int]]]:
    """What a model answers by default, in order: kind of its numbers, and shape of one row's."""
    shapes = {**manifest.output_shapes(), P_VALUE: [], IS_ANOMALY: []}
    kinds = {IS_ANOMALY: "b"}
    return {name: (kinds.get(name, "f"), shapes[name]) for name in names(bool(manifest.prior), False)}


@lru_cache
def names(prior: bool, top_features: bool) -> tuple[str, ...]:
    """Every output that may be asked for, in order."""
    every = (EMBEDDING, RECONSTRUCTION, SCORE, RECONSTRUCTION_ERROR, P_VALUE, IS_ANOMALY, FEATURE_ERROR)
    return (*every, *((EMBEDDING_STDDEV,) if prior else ()), *(TOP if top_features else ()))


@lru_cache(maxsize=1024)  # the callers' orders
def needs(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What has to be run for these outputs, and no more."""
    return tuple(dict.fromkeys(need for name in wanted for need in _NEEDS.get(name, (name,))))


def metadata(model: LiveModel, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    manifest = model.manifest
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=map(str, sorted(versions)),
        platform=_PLATFORM,
        inputs=[tensor(name=INPUT, datatype="FP32", shape=[-1, *manifest.row_shape])],
        outputs=[
            tensor(name=name, datatype=DATATYPES[kind][0], shape=[-1, *shape])
            for name, (kind, shape) in outputs(manifest).items()
        ],
        properties={
            "version": str(model.version),
            "embedding_space_id": manifest.embedding_space_id,
            "variant": manifest.variant,
            "precision": manifest.precision,
            "device": model.device,
        },
    )


def config(model: LiveModel, max_rows: int, delay: float) -> pb.ModelConfig:
    """delay: seconds for which a batch waits for more rows."""
    manifest = model.manifest
    return pb.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        backend=_BACKEND,
        max_batch_size=max_rows,
        input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_FP32, dims=manifest.row_shape)],
        output=[
            pb.ModelOutput(
                name=name,
                data_type=f"TYPE_{DATATYPES[kind][0]}",
                dims=shape or [1],
                reshape=None if shape else pb.ModelTensorReshape(),
            )
            for name, (kind, shape) in outputs(manifest).items()
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=round(delay * 1e6),
            priority_levels=PRIORITIES,
            default_priority_level=PRIORITIES,
        ),
    )


def statistics(model: LiveModel, served: Served) -> pb.ModelStatistics:
    failures = sum(served.failures.values())
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=round(served.last * 1e3),
        inference_count=served.rows,
        execution_count=served.batches,
        inference_stats=pb.InferStatistics(
            success=_duration(served.successes, served.success_seconds),
            fail=_duration(failures, served.fail_seconds),
            queue=_duration(served.begun, served.queue_seconds),
            compute_infer=_duration(served.begun, served.compute_seconds),
        ),
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))
