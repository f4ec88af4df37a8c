"""Numbers inside JSON."""

from __future__ import annotations

import base64

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator


class Array(BaseModel):
    """A float32 array, bit for bit: base64 of its little-endian bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: list[int]
    base64: str

    @classmethod
    def pack(cls, values: np.ndarray) -> Array:
        data = np.asarray(values, dtype="<f4")
        return cls(shape=list(data.shape), base64=base64.b64encode(data.tobytes()).decode("ascii"))

    def unpack(self) -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.base64, validate=True), dtype="<f4").reshape(self.shape)

    @model_validator(mode="after")
    def _check(self) -> Array:
        if any(size < 0 for size in self.shape):
            raise ValueError("shape: a negative size")
        self.unpack()
        return self
