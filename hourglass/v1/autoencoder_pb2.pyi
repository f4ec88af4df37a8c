from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_BINARY: _ClassVar[DataType]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_BOOL: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_BINARY: DataType

class Tensor(_message.Message):
    __slots__ = ("data_type", "shape", "data")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "numbers", "texts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: Tensor
    texts: Texts
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Union[Tensor, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "embedding_space_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    embedding_space_id: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., embedding_space_id: _Optional[str] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "version", "tensor", "table", "normalize", "encoding", "require_space_id", "with_stddev")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_STDDEV_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    tensor: Tensor
    table: Table
    normalize: bool
    encoding: DataType
    require_space_id: str
    with_stddev: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., normalize: bool = ..., encoding: _Optional[_Union[DataType, str]] = ..., require_space_id: _Optional[str] = ..., with_stddev: bool = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("model", "embedding", "embedding_stddev", "scale", "normalized")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_STDDEV_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    embedding: Tensor
    embedding_stddev: Tensor
    scale: float
    normalized: bool
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., embedding: _Optional[_Union[Tensor, _Mapping]] = ..., embedding_stddev: _Optional[_Union[Tensor, _Mapping]] = ..., scale: _Optional[float] = ..., normalized: bool = ...) -> None: ...

class DenoiseRequest(_message.Message):
    __slots__ = ("model", "version", "tensor", "table")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    tensor: Tensor
    table: Table
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., table: _Optional[_Union[Table, _Mapping]] = ...) -> None: ...

class DenoiseResponse(_message.Message):
    __slots__ = ("model", "reconstruction")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    reconstruction: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., reconstruction: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "version", "tensor", "table", "false_alarm_rate", "threshold", "control_fdr", "top_features", "feature_errors")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FDR_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    tensor: Tensor
    table: Table
    false_alarm_rate: float
    threshold: float
    control_fdr: bool
    top_features: int
    feature_errors: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., false_alarm_rate: _Optional[float] = ..., threshold: _Optional[float] = ..., control_fdr: bool = ..., top_features: _Optional[int] = ..., feature_errors: bool = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("model", "score", "p_value", "is_anomaly", "threshold", "false_alarm_rate", "reconstruction_error", "clipped", "top_features", "feature_errors", "missing", "unknown")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    IS_ANOMALY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    score: Tensor
    p_value: Tensor
    is_anomaly: Tensor
    threshold: float
    false_alarm_rate: float
    reconstruction_error: Tensor
    clipped: Tensor
    top_features: TopFeatures
    feature_errors: Tensor
    missing: Tensor
    unknown: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., score: _Optional[_Union[Tensor, _Mapping]] = ..., p_value: _Optional[_Union[Tensor, _Mapping]] = ..., is_anomaly: _Optional[_Union[Tensor, _Mapping]] = ..., threshold: _Optional[float] = ..., false_alarm_rate: _Optional[float] = ..., reconstruction_error: _Optional[_Union[Tensor, _Mapping]] = ..., clipped: _Optional[_Union[Tensor, _Mapping]] = ..., top_features: _Optional[_Union[TopFeatures, _Mapping]] = ..., feature_errors: _Optional[_Union[Tensor, _Mapping]] = ..., missing: _Optional[_Union[Tensor, _Mapping]] = ..., unknown: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class TopFeatures(_message.Message):
    __slots__ = ("feature", "share", "observed", "expected")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    feature: Tensor
    share: Tensor
    observed: Tensor
    expected: Tensor
    def __init__(self, feature: _Optional[_Union[Tensor, _Mapping]] = ..., share: _Optional[_Union[Tensor, _Mapping]] = ..., observed: _Optional[_Union[Tensor, _Mapping]] = ..., expected: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "version", "embedding", "normalized", "require_space_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    embedding: Tensor
    normalized: bool
    require_space_id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., embedding: _Optional[_Union[Tensor, _Mapping]] = ..., normalized: bool = ..., require_space_id: _Optional[str] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("model", "reconstruction")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    reconstruction: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., reconstruction: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "version", "rows", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    rows: int
    seed: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., rows: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("model", "rows", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    rows: Tensor
    seed: int
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., rows: _Optional[_Union[Tensor, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "limits")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    model: ModelInfo
    limits: Limits
    def __init__(self, model: _Optional[_Union[ModelInfo, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "limits")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    limits: Limits
    def __init__(self, models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("model", "variant", "row_shape", "columns", "embedding_size", "score_definition", "calibration", "device", "created", "prior", "schema", "takes_missing", "aside", "window", "encodings", "precision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    ROW_SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    SCORE_DEFINITION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TAKES_MISSING_FIELD_NUMBER: _ClassVar[int]
    ASIDE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    variant: str
    row_shape: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    embedding_size: int
    score_definition: str
    calibration: Calibration
    device: str
    created: str
    prior: str
    schema: _containers.RepeatedCompositeFieldContainer[ColumnSchema]
    takes_missing: bool
    aside: AsideColumns
    window: Window
    encodings: _containers.RepeatedScalarFieldContainer[DataType]
    precision: str
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., variant: _Optional[str] = ..., row_shape: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[str]] = ..., embedding_size: _Optional[int] = ..., score_definition: _Optional[str] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., device: _Optional[str] = ..., created: _Optional[str] = ..., prior: _Optional[str] = ..., schema: _Optional[_Iterable[_Union[ColumnSchema, _Mapping]]] = ..., takes_missing: bool = ..., aside: _Optional[_Union[AsideColumns, _Mapping]] = ..., window: _Optional[_Union[Window, _Mapping]] = ..., encodings: _Optional[_Iterable[_Union[DataType, str]]] = ..., precision: _Optional[str] = ...) -> None: ...

class ColumnSchema(_message.Message):
    __slots__ = ("name", "type", "categories")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class AsideColumns(_message.Message):
    __slots__ = ("label", "id", "time", "ignored")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    label: str
    id: str
    time: str
    ignored: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, label: _Optional[str] = ..., id: _Optional[str] = ..., time: _Optional[str] = ..., ignored: _Optional[_Iterable[str]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("length", "stride", "step_seconds")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    length: int
    stride: int
    step_seconds: float
    def __init__(self, length: _Optional[int] = ..., stride: _Optional[int] = ..., step_seconds: _Optional[float] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("rows", "false_alarm_rate", "threshold")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    rows: int
    false_alarm_rate: float
    threshold: float
    def __init__(self, rows: _Optional[int] = ..., false_alarm_rate: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class GetDriftRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetDriftResponse(_message.Message):
    __slots__ = ("model", "sketch", "drift")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    sketch: Sketch
    drift: Drift
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., sketch: _Optional[_Union[Sketch, _Mapping]] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ...) -> None: ...

class Sketch(_message.Message):
    __slots__ = ("rows", "overlap", "size", "categorical", "edges", "shares", "score_edges", "score_shares", "clipped")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CATEGORICAL_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SCORE_EDGES_FIELD_NUMBER: _ClassVar[int]
    SCORE_SHARES_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    rows: int
    overlap: int
    size: int
    categorical: _containers.RepeatedScalarFieldContainer[int]
    edges: Tensor
    shares: Tensor
    score_edges: Tensor
    score_shares: Tensor
    clipped: float
    def __init__(self, rows: _Optional[int] = ..., overlap: _Optional[int] = ..., size: _Optional[int] = ..., categorical: _Optional[_Iterable[int]] = ..., edges: _Optional[_Union[Tensor, _Mapping]] = ..., shares: _Optional[_Union[Tensor, _Mapping]] = ..., score_edges: _Optional[_Union[Tensor, _Mapping]] = ..., score_shares: _Optional[_Union[Tensor, _Mapping]] = ..., clipped: _Optional[float] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("rows", "ks", "limit", "psi", "missing", "missing_before", "unknown", "unknown_before", "scored", "score_ks", "score_limit", "score_psi", "mean_p_value", "clipped", "clipped_before")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MISSING_BEFORE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    SCORE_KS_FIELD_NUMBER: _ClassVar[int]
    SCORE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    SCORE_PSI_FIELD_NUMBER: _ClassVar[int]
    MEAN_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    ks: Tensor
    limit: float
    psi: Tensor
    missing: Tensor
    missing_before: Tensor
    unknown: Tensor
    unknown_before: Tensor
    scored: int
    score_ks: float
    score_limit: float
    score_psi: float
    mean_p_value: float
    clipped: float
    clipped_before: float
    def __init__(self, rows: _Optional[int] = ..., ks: _Optional[_Union[Tensor, _Mapping]] = ..., limit: _Optional[float] = ..., psi: _Optional[_Union[Tensor, _Mapping]] = ..., missing: _Optional[_Union[Tensor, _Mapping]] = ..., missing_before: _Optional[_Union[Tensor, _Mapping]] = ..., unknown: _Optional[_Union[Tensor, _Mapping]] = ..., unknown_before: _Optional[_Union[Tensor, _Mapping]] = ..., scored: _Optional[int] = ..., score_ks: _Optional[float] = ..., score_limit: _Optional[float] = ..., score_psi: _Optional[float] = ..., mean_p_value: _Optional[float] = ..., clipped: _Optional[float] = ..., clipped_before: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_rows", "max_message_bytes")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    max_message_bytes: int
    def __init__(self, max_rows: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...
