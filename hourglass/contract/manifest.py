"""manifest.json: everything a server, a client or a person needs to know about a published model."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from hourglass.contract.array import Array as Array
from hourglass.contract.calibration import Calibration
from hourglass.contract.drift import Sketch
from hourglass.contract.quantization import Quantizations
from hourglass.contract.schema import Column, Schema

MODEL = "model.onnx"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"

INPUT = "input"
EMBEDDING = "embedding"
EMBEDDING_STDDEV = "embedding_stddev"
RECONSTRUCTION = "reconstruction"
SCORE = "score"
FEATURE_ERROR = "feature_error"
RECONSTRUCTION_ERROR = "reconstruction_error"
CLIPPED = "clipped"

# A golden row whose answer may be wrong by more than this share proves nothing.
LARGEST_TOLERANCE = 0.01

# What a model's networks compute in. Scaling and score are float32 always, as are inputs and outputs.
Precision = Literal["float32", "float16"]
FLOAT32: Precision = "float32"
FLOAT16: Precision = "float16"

# Input and outputs of each graph, by name: the part of the contract that onnxruntime can check. All are float32. A
# model with a prior has embedding_stddev besides, wherever it has embedding.
#   feature_error         >= 0, the row's shape; a feature's share of their sum is its share in the score
#   reconstruction_error  mean over features of the squared error in scaled units, whatever the score is
#   clipped               how many of the row's numbers the scaling clipped
GRAPHS = {
    MODEL: (INPUT, (EMBEDDING, RECONSTRUCTION, SCORE, FEATURE_ERROR, RECONSTRUCTION_ERROR, CLIPPED)),
    ENCODER: (INPUT, (EMBEDDING,)),
    DECODER: (EMBEDDING, (RECONSTRUCTION,)),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class AsideColumns(_Strict):
    """Columns that the training data had beside the rows: when the model is asked, they may be there or not."""

    label: str | None = None
    id: str | None = None
    time: str | None = None
    ignored: list[str] = []


class Window(_Strict):
    """Rows are windows of a time series: `length` consecutive timestamps, the next one `stride` later.

    step_seconds: from one timestamp to the next, as is usual; None where time was not known. A window does not span a
    gap.
    """

    length: Annotated[int, Field(ge=2)]
    stride: Annotated[int, Field(ge=1)]
    step_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Scaling(_Strict):
    """scaled = clip((x - shift) / scale, low, high), in float32. The graphs do it themselves: nobody has to.

    Here for those who compare errors of different columns, or damage rows, in the units the model was trained in.
    shift, scale: one number each, or one for each number of a row; of windows, one for each channel. A categorical
    column is as many numbers as it has categories, and one more in front for the unknown: 1 for the row's, 0 for the
    others; all columns in order, [numbers of the expanded row].
    """

    shift: Array
    scale: Array
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]

    @model_validator(mode="after")
    def _check(self) -> Scaling:
        shift, scale = self.shift.unpack(), self.scale.unpack()
        if shift.shape != scale.shape:
            raise ValueError("shift and scale have different shapes")
        if not np.isfinite(shift).all() or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError("shift is not finite, or scale not finite and above 0")
        if self.low >= self.high:
            raise ValueError("low is not below high")
        return self


class Tolerance(_Strict):
    """|answer - expected| <= atol + rtol * |expected|."""

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rtol: Annotated[float, Field(ge=0, le=LARGEST_TOLERANCE)]

    def proves(self, expected: np.ndarray) -> bool:
        """Whether it is small enough for these answers to say anything."""
        return self.atol <= LARGEST_TOLERANCE * max(1.0, float(np.abs(expected).max()))


class GoldenRows(_Strict):
    """Synthetic rows and the answers the exporter saw: a server proves itself on them before it serves."""

    input: Array
    outputs: dict[str, Array]
    # precision -> output -> tolerance
    tolerance: dict[Precision, dict[str, Tolerance]]


class ScoreDefinition(_Strict):
    name: str
    formula: str


class Recalibration(_Strict):
    """Where the calibration is from, when it is not from the fit; the graphs are those of `from_version`.

    data_sha256: of the `rows` rows that calibrated, as that of a fit's. fitted: when the graphs were made.
    """

    from_version: Annotated[int, Field(ge=1)]
    fitted: AwareDatetime
    data: str
    data_sha256: str
    rows: Annotated[int, Field(ge=1)]


class Detection(_Strict):
    """How well anomalies that were at hand were told from the calibration rows: rows whose label the fit excluded.

    methods: `model`, and the baselines that learned from the same rows -> measure -> value.
    """

    normal_rows: Annotated[int, Field(ge=1)]
    anomalous_rows: Annotated[int, Field(ge=1)]
    methods: dict[str, dict[str, float]]


class HalfPrecision(_Strict):
    """What float16 changed, beside the same weights in float32.

    cosine: of the two embeddings of a row, at least, but for 5 % of the early-stop rows. auroc, float32_auroc: how
    well calibration rows are told from `anomalies`: rows whose label the fit excluded, or calibration rows damaged.
    """

    cosine: Annotated[float, Field(ge=-1, le=1)]
    auroc: Annotated[float, Field(ge=0, le=1)]
    float32_auroc: Annotated[float, Field(ge=0, le=1)]
    anomalies: Literal["excluded", "damaged"]


class Provenance(_Strict):
    """How the version came to be. data, data_sha256, rows, seed, config, versions, metrics: of the fit."""

    created: AwareDatetime
    data: str
    data_sha256: str
    rows: dict[str, int]
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, float]
    detection: Detection | None = None
    half_precision: HalfPrecision | None = None
    recalibrated: Recalibration | None = None


class Manifest(_Strict):
    schema_version: Literal[1] = 1
    variant: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    files: dict[str, FileEntry]
    row_shape: Annotated[list[int], Field(min_length=1, max_length=3)]
    # Of a table, or the channels of a window.
    columns: list[Column] | None = None
    aside: AsideColumns = AsideColumns()
    window: Window | None = None
    precision: Precision = FLOAT32
    embedding_size: Annotated[int, Field(ge=1)]
    embedding_space_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    # How embeddings are distributed a priori: from such a model new rows can be drawn.
    prior: Literal["standard_normal"] | None = None
    scaling: Scaling
    score: ScoreDefinition
    calibration: Calibration
    # NaN in a row is a missing cell: refused, or left out of the score and filled in by the reconstruction.
    missing_values: Literal["refuse", "fill"] = "refuse"
    # Of embeddings in fewer bytes, calibrated on the same rows; versions of before have none.
    quantization: Quantizations | None = None
    # What the calibration rows look like, to compare traffic with; versions of before have none.
    drift: Sketch | None = None
    golden: GoldenRows
    provenance: Provenance

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if missing := GRAPHS.keys() - self.files.keys():
            raise ValueError(f"files: {', '.join(sorted(missing))} missing")
        if any(size < 1 for size in self.row_shape):
            raise ValueError("row_shape: every size is at least 1")
        if self.columns is not None:
            if self.row_shape != [*([self.window.length] if self.window else []), len(self.columns)]:
                raise ValueError("columns: their number is not the row's size")
            Schema(tuple(self.columns))  # raises where a name comes twice
        if self.scaling.shift.shape not in ([], *self._scaled_shapes()):
            raise ValueError("scaling: neither one number nor of the row's shape")
        if self.embedding_space_id != self.files[ENCODER].sha256[:16]:
            raise ValueError(f"embedding_space_id: not that of {ENCODER}")
        if self.drift and self.drift.size != (self.row_shape[-1] if self.window else math.prod(self.row_shape)):
            raise ValueError("drift: not of the row's size")
        for quantization in vars(self.quantization).values() if self.quantization else ():
            if quantization.thresholds.shape != [self.embedding_size]:
                raise ValueError("quantization: not of the embedding's size")
        self._check_golden()
        return self

    def _scaled_shapes(self) -> list[list[int]]:
        if self.row_schema is None:
            return [self.row_shape]
        return [[len(self.row_schema.expanded)]]

    @cached_property
    def row_schema(self) -> Schema | None:
        """The columns with names, None for images and unnamed arrays."""
        return None if self.columns is None else Schema(tuple(self.columns))

    def with_sketch(self, rows: np.ndarray, scores: np.ndarray, clipped: np.ndarray) -> Manifest:
        """With the sketch of calibration rows, float32 [n, *row_shape], their scores and clipped numbers, [n] each."""
        sketch = Sketch.of(rows, scores, clipped, schema=self.row_schema, window=self.window)
        return self.model_copy(update={"drift": sketch})

    @property
    def takes_missing(self) -> bool:
        return self.missing_values == "fill"

    def _check_golden(self) -> None:
        rows, *row_shape = self.golden.input.shape or [0]
        if rows < 1 or row_shape != self.row_shape:
            raise ValueError("golden.input: no rows, or not of the row's shape")
        for output, shape in self.output_shapes().items():
            if output not in self.golden.outputs or self.golden.outputs[output].shape != [rows, *shape]:
                raise ValueError(f"golden.outputs.{output}: missing, or of another shape")
            expected = self.golden.outputs[output].unpack()
            if not np.isfinite(expected).all():
                raise ValueError(f"golden.outputs.{output}: not finite")
            tolerance = self.tolerance.get(output)
            if tolerance is None or not tolerance.proves(expected):
                raise ValueError(
                    f"golden.tolerance.{self.precision}.{output}: missing, or so large that it proves nothing"
                )

    @property
    def tolerance(self) -> dict[str, Tolerance]:
        """How far a runtime's answers to the golden rows may be from the exporter's, by output."""
        return self.golden.tolerance.get(self.precision, {})

    def output_shapes(self) -> dict[str, list[int]]:
        """Shape of each output of model.onnx for one row, without the leading n."""
        shapes = {
            EMBEDDING: [self.embedding_size],
            EMBEDDING_STDDEV: [self.embedding_size],
            RECONSTRUCTION: self.row_shape,
            SCORE: [],
            FEATURE_ERROR: self.row_shape,
            RECONSTRUCTION_ERROR: [],
            CLIPPED: [],
        }
        return {name: shapes[name] for name in self.graph_outputs(MODEL)}

    def graph_outputs(self, file: str) -> tuple[str, ...]:
        """The outputs of one of the three graphs, in order."""
        outputs = GRAPHS[file][1]
        return (*outputs, EMBEDDING_STDDEV) if self.prior and EMBEDDING in outputs else outputs
