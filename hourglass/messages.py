"""Answers as Python values. Pure functions between numpy and the protobuf messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, repeat
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hourglass.contract.array import Array
from hourglass.contract.calibration import benjamini_hochberg
from hourglass.contract.drift import Distribution, Drift, Sketch
from hourglass.contract.quantization import DTYPES, Encoding
from hourglass.contract.schema import Schema
from hourglass.errors import HourglassError
from hourglass.frames import Framed, flat, score_names, top_columns
from hourglass.models import ModelInfo, ModelVersion
from hourglass.v1 import autoencoder_pb2 as pb

_DTYPES = {
    pb.DATA_TYPE_FLOAT32: DTYPES["float32"],
    pb.DATA_TYPE_BOOL: np.dtype("?"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_FLOAT16: DTYPES["float16"],
    pb.DATA_TYPE_INT8: DTYPES["int8"],
    pb.DATA_TYPE_BINARY: DTYPES["binary"],
}
_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]
_Bools = NDArray[np.bool_]


class _Parted:
    """An answer to several rows: a dataclass whose arrays are [n, ...]."""

    def split(self, counts: Sequence[int]) -> list[Self]:
        """The reverse of `join`: the answer to the first counts[0] rows, to the next counts[1], ..."""
        if len(counts) == 1:
            return [self]
        ends = list(accumulate(counts))
        slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

        def parts(value: Any) -> Iterable[Any]:
            if isinstance(value, np.ndarray):
                # Copies: one that is kept does not keep the others.
                return [value[part].copy() for part in slices]
            return value.split(counts) if isinstance(value, _Parted) else repeat(value, len(slices))

        # The class's fields are in the order of its arguments.
        return [type(self)(*values) for values in zip(*map(parts, vars(self).values()), strict=True)]


@dataclass(frozen=True)
class _Values(_Parted):
    values: np.ndarray
    model: ModelVersion

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return replace(parts[0], values=_concatenated([part.values for part in parts]))


@dataclass(frozen=True)
class Embeddings(_Values, Framed):
    """As they were asked for.

    values: float32, float16 or int8 [n, embedding size]; of binary uint8 [n, ceil(embedding size / 8)], eight numbers'
    bits each, the first in the most significant (numpy.unpackbits). scale: of int8, a number is scale * its whole
    number; None of others. normalized: whether they have length 1. stddev: float32 [n, embedding size], how sure each
    number is; None if not asked for.
    """

    stddev: _Floats | None = None
    scale: float | None = None
    normalized: bool = False

    @property
    def encoding(self) -> Encoding:
        return next(encoding for encoding, dtype in DTYPES.items() if dtype == self.values.dtype)

    def floats(self) -> _Floats:
        """float32 [n, embedding size]: the numbers that these stand for. Raises ValueError of binary ones."""
        if self.encoding == "binary":
            raise ValueError("of binary embeddings only bits are left: ask for another encoding")
        floats = self.values.astype(np.float32)
        return floats if self.scale is None else floats * np.float32(self.scale)

    def _frame(self, model: ModelInfo | None) -> dict[str, np.ndarray]:
        """The values as they are, in one column, and stddev in another where it was asked for."""
        return {"embedding": self.values, **({} if self.stddev is None else {"stddev": self.stddev})}

    @classmethod
    def decode(cls, answer: pb.EmbedResponse, rows: int) -> Self:
        values = _array(answer.embedding, rows)
        stddev = _array(answer.embedding_stddev, rows) if answer.HasField("embedding_stddev") else None
        scale = answer.scale if answer.embedding.data_type == pb.DATA_TYPE_INT8 else None
        return cls(values, ModelVersion.decode(answer.model), stddev, scale, answer.normalized)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        stddevs = [part.stddev for part in parts if part.stddev is not None]
        return replace(super().join(parts), stddev=_concatenated(stddevs) if stddevs else None)


@dataclass(frozen=True)
class _Rows(_Values, Framed):
    """values: float32 [n, *row shape], in the units of the training data."""

    values: _Floats

    def columns(self, model: ModelInfo) -> dict[str, np.ndarray]:
        """Each column by name as people read it: [n] of float32, bool or str. Raises ValueError without a schema."""
        if not model.schema or model.window is not None:
            raise ValueError(f"rows of {model.model.name!r} have no columns")
        return dict(Schema(model.schema).decode(self.values))

    def _frame(self, model: ModelInfo | None) -> dict[str, np.ndarray]:
        """`columns` where there are; otherwise c0, c1, … for each number, row-major."""
        if model is not None and model.schema and model.window is None:
            return self.columns(model)
        return {f"c{i}": values for i, values in enumerate(flat(self.values).T)}


class Reconstructions(_Rows):
    """values: float32, the shape and the units of the rows; codes where a column is categorical: see `columns`."""

    @classmethod
    def decode(cls, answer: pb.DenoiseResponse | pb.DecodeResponse, rows: int) -> Self:
        return cls(_array(answer.reconstruction, rows), ModelVersion.decode(answer.model))


@dataclass(frozen=True)
class Generated(_Rows):
    """values: float32 [n, *row shape], in the units of the training data. seed: gives the same rows again."""

    seed: int = 0

    @classmethod
    def decode(cls, answer: pb.GenerateResponse, rows: int) -> Self:
        return cls(_array(answer.rows, rows), ModelVersion.decode(answer.model), answer.seed)


@dataclass(frozen=True)
class TopFeatures(_Parted):
    """The features with the largest part in each row's score, the largest first; [n, k] each.

    feature: int32, where it stands in the row, row-major. share: float32, its share in the score, in [0, 1]. observed,
    expected: float32, what the row and the reconstruction have there, in the units of the training data; codes where a
    column is categorical, NaN where a cell is missing: see `cells`.
    """

    feature: _Ints
    share: _Floats
    observed: _Floats
    expected: _Floats

    def names(self, model: ModelInfo) -> np.ndarray:
        """str [n, k]: the features' names, as in ModelInfo.feature_names."""
        names: np.ndarray = np.array(model.feature_names)[self.feature]
        return names

    def cells(self, model: ModelInfo) -> tuple[np.ndarray, np.ndarray]:
        """observed and expected as people read them, object [n, k] of str each: '7.1', 'Hungary', 'unknown', 'true',
        'missing'."""

        def texts(values: np.ndarray) -> np.ndarray:
            found = [
                model.column_of(feature).cell(value, str)
                for feature, value in zip(self.feature.ravel().tolist(), values.ravel(), strict=True)
            ]
            return np.array(found, dtype=object).reshape(values.shape)

        return texts(self.observed), texts(self.expected)

    @classmethod
    def decode(cls, answer: pb.TopFeatures, rows: int) -> Self:
        return cls(
            feature=_array(answer.feature, rows),
            share=_array(answer.share, rows),
            observed=_array(answer.observed, rows),
            expected=_array(answer.expected, rows),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return cls(**{name: _concatenated([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True)
class Scores(_Parted, Framed):
    """Of each row.

    score: float32 [n], higher is more anomalous. p_value: float32 [n], in (0, 1]. is_anomaly: bool [n], score >
    threshold, which stands for false_alarm_rate. reconstruction_error: float32 [n], mean squared, in scaled units,
    whatever the score is. clipped: int32 [n], how many of the row's numbers lie so far from the training data that the
    model clipped them. missing, unknown: int32 [n], how many cells were missing, and how many categories the model does
    not know. top_features, feature_errors (float32 [n, *row shape], whose shares of their sum are shares of
    the score): None if not asked for.
    """

    score: _Floats
    p_value: _Floats
    is_anomaly: _Bools
    threshold: float
    false_alarm_rate: float
    model: ModelVersion
    reconstruction_error: _Floats
    clipped: _Ints
    missing: _Ints
    unknown: _Ints
    top_features: TopFeatures | None = None
    feature_errors: _Floats | None = None

    @classmethod
    def decode(cls, answer: pb.ScoreResponse, rows: int) -> Self:
        return cls(
            score=_array(answer.score, rows),
            p_value=_array(answer.p_value, rows),
            is_anomaly=_array(answer.is_anomaly, rows),
            threshold=answer.threshold,
            false_alarm_rate=answer.false_alarm_rate,
            model=ModelVersion.decode(answer.model),
            reconstruction_error=_array(answer.reconstruction_error, rows),
            clipped=_array(answer.clipped, rows),
            missing=_array(answer.missing, rows),
            unknown=_array(answer.unknown, rows),
            top_features=TopFeatures.decode(answer.top_features, rows) if answer.HasField("top_features") else None,
            feature_errors=_array(answer.feature_errors, rows) if answer.HasField("feature_errors") else None,
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        tops = [part.top_features for part in parts if part.top_features is not None]
        errors = [part.feature_errors for part in parts if part.feature_errors is not None]
        return replace(
            parts[0],
            score=_concatenated([part.score for part in parts]),
            p_value=_concatenated([part.p_value for part in parts]),
            is_anomaly=_concatenated([part.is_anomaly for part in parts]),
            reconstruction_error=_concatenated([part.reconstruction_error for part in parts]),
            clipped=_concatenated([part.clipped for part in parts]),
            missing=_concatenated([part.missing for part in parts]),
            unknown=_concatenated([part.unknown for part in parts]),
            top_features=TopFeatures.join(tops) if tops else None,
            feature_errors=_concatenated(errors) if errors else None,
        )

    def _frame(self, model: ModelInfo | None) -> dict[str, np.ndarray]:
        """Of the model's columns `missing` and `unknown` those that can be above 0; texts where not all are numeric."""
        columns = {name: getattr(self, name) for name in score_names(model)}
        if self.top_features is not None:
            names = None if model is None else model.feature_names
            as_text = model is not None and not Schema(model.schema).is_numeric
            columns |= top_columns(self.top_features, names, model if as_text else None)
        if self.feature_errors is not None:
            columns["feature_errors"] = flat(self.feature_errors)
        return columns

    def fdr_controlled(self) -> Self:
        """With verdicts that control the false discovery rate over all these rows, as a server's over a message's."""
        is_anomaly = benjamini_hochberg(self.p_value, self.false_alarm_rate)
        threshold = float(self.score[~is_anomaly].max(initial=-np.inf))
        return replace(self, is_anomaly=is_anomaly, threshold=threshold)


@dataclass(frozen=True)
class ModelDrift:
    """sketch: what the calibration rows look like. now: how far the rows that came to the server last are from them;
    None where it does not look."""

    sketch: Sketch
    now: Drift | None
    model: ModelVersion

    @classmethod
    def decode(cls, answer: pb.GetDriftResponse) -> Self:
        """Raises HourglassError when it does not fit together."""
        sketch = answer.sketch
        try:
            decoded = Sketch(
                rows=sketch.rows,
                overlap=sketch.overlap,
                size=sketch.size,
                categorical=tuple(sketch.categorical),
                features=_distribution(sketch.edges, sketch.shares),
                score=_distribution(sketch.score_edges, sketch.score_shares),
                clipped=sketch.clipped,
            )
        except ValidationError as error:
            raise _bad_answer(f"no sketch: {error.errors()[0]['msg']}") from None
        drift = _drift(answer.drift, decoded.features.features) if answer.HasField("drift") else None
        return cls(decoded, drift, ModelVersion.decode(answer.model))


def _distribution(edges: pb.Tensor, shares: pb.Tensor) -> Distribution:
    arrays = (Array.pack(_array(tensor, *tensor.shape[:1])) for tensor in (edges, shares))
    return Distribution(**dict(zip(("edges", "shares"), arrays, strict=True)))


def _drift(message: pb.Drift, features: int) -> Drift:
    # The class's names are the message's.
    sent = {field.name: getattr(message, field.name) for field in fields(Drift)}
    values: dict[str, Any] = {n: _array(v, features) if isinstance(v, pb.Tensor) else v for n, v in sent.items()}
    return Drift(**values)


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array(message: pb.Tensor, rows: int) -> np.ndarray:
    dtype = _DTYPES.get(message.data_type)
    shape, data = tuple(message.shape), message.data  # read once: each look copies the bytes
    if dtype is None or shape[:1] != (rows,) or len(data) != dtype.itemsize * math.prod(shape):
        raise _bad_answer(f"not an array of {rows} rows: {list(shape)}")
    return np.frombuffer(bytearray(data), dtype=dtype).reshape(shape)  # the caller's own, to write into as well


def _bad_answer(why: str) -> HourglassError:
    return HourglassError(grpc.StatusCode.INTERNAL, "BAD_ANSWER", f"the server's answer is {why}")
