"""Embeddings in fewer bytes: as vector search stores them, and as they travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hourglass.contract.array import Array

Encoding = Literal["float32", "float16", "int8", "binary"]
# Of the numbers of an encoded embedding; a byte of `binary` holds eight.
DTYPES: Mapping[Encoding, np.dtype] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_LARGEST_INT8 = 127
_KEPT = 0.9995
_SMALLEST = 1e-30  # of a scale: below it all is rounding
_ENOUGH = 2**20  # numbers to choose a scale by


class Quantization(BaseModel):
    """What int8 and binary embeddings of a model are.

    int8: round(number / scale), at most 127 either way. One scale for all numbers, without an offset, so that angles
    and distances of the whole numbers are those of the floats, but for rounding, whatever index holds them. binary:
    whether a number is above its place's threshold. thresholds: float32 [embedding size].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    thresholds: Array

    @model_validator(mode="after")
    def _check(self) -> Quantization:
        if len(self.thresholds.shape) != 1 or not np.isfinite(self.thresholds.unpack()).all():
            raise ValueError("thresholds: not one finite number for each of the embedding's")
        if not 0 < np.float32(self.scale) < np.inf:
            raise ValueError("scale: beyond float32")
        return self

    @classmethod
    def of(cls, embeddings: np.ndarray) -> Quantization:
        """Calibrated on float32 [n, embedding size], n >= 1; of many rows, on some evenly among them.

        scale: of the numbers that are not 0, one in 2,000 is cut off. Neighbours are found a little better so than with
        all of them, or with the scale of the least squared error. thresholds: medians, with which bits tell most.
        """
        embeddings = embeddings[:: -(-embeddings.size // _ENOUGH)]
        sizes = np.abs(embeddings[embeddings != 0])
        largest = float(np.quantile(sizes, _KEPT)) if sizes.size else 1.0
        scale = max(largest / _LARGEST_INT8, _SMALLEST)
        return cls(scale=float(np.float32(scale)), thresholds=Array.pack(np.median(embeddings, axis=0)))

    def int8(self, embeddings: np.ndarray) -> np.ndarray:
        """float32 -> int8, the same shape."""
        return _whole(embeddings, np.float32(self.scale)).astype(np.int8)

    def binary(self, embeddings: np.ndarray) -> np.ndarray:
        """float32 [n, embedding size] -> uint8 [n, ceil(embedding size / 8)], the first bit the most significant."""
        return np.packbits(embeddings > self.thresholds.unpack(), axis=1)


class Quantizations(BaseModel):
    """Of a model's embeddings as they are, and of length 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plain: Quantization
    normalized: Quantization

    @classmethod
    def of(cls, embeddings: np.ndarray) -> Quantizations:
        """Calibrated on float32 [n, embedding size]."""
        return cls(plain=Quantization.of(embeddings), normalized=Quantization.of(normalized(embeddings)))


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """float32 [n, embedding size], of length 1 (L2); zeros stay zeros."""
    # In float64 no square is too large or too small.
    length = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    length[length == 0] = 1
    return np.asarray(embeddings / length[:, None], dtype=np.float32)


def float16(embeddings: np.ndarray) -> np.ndarray:
    """float32 -> float16, the same shape; numbers beyond its largest, 65,504, become that."""
    return np.asarray(np.clip(embeddings, -_LARGEST_FLOAT16, _LARGEST_FLOAT16), dtype=np.float16)


def _whole(embeddings: np.ndarray, scale: np.float32) -> np.ndarray:
    return np.asarray(np.clip(np.rint(embeddings / scale), -_LARGEST_INT8, _LARGEST_INT8))
