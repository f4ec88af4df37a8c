"""Embeddings as they travel: encoded by Embed, and read by Decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from hourglass.contract.quantization import DTYPES, Encoding, Quantization, float16, normalized
from hourglass.v1 import autoencoder_pb2 as pb
from service import tensors
from service.engine import LiveModel
from service.errors import InvalidInput, Unsupported

_ENCODINGS: Mapping[pb.DataType, Encoding] = {
    pb.DATA_TYPE_UNSPECIFIED: "float32",
    pb.DATA_TYPE_FLOAT32: "float32",
    pb.DATA_TYPE_FLOAT16: "float16",
    pb.DATA_TYPE_INT8: "int8",
    pb.DATA_TYPE_BINARY: "binary",
}
_QUANTIZED = ("int8", "binary")
# Rows can be told from these.
_INVERTIBLE = {number: DTYPES[encoding] for number, encoding in _ENCODINGS.items() if number and encoding != "binary"}


def offered(model: LiveModel) -> list[pb.DataType]:
    """What embeddings of a version may be asked as."""
    every = model.manifest.quantization is not None
    return [number for number, encoding in _ENCODINGS.items() if number and (every or encoding not in _QUANTIZED)]


@dataclass(frozen=True)
class Form:
    """What embeddings are asked as. quantization: None where that needs none."""

    encoding: Encoding
    normalize: bool
    quantization: Quantization | None

    @classmethod
    def of(cls, request: pb.EmbedRequest, model: LiveModel) -> Form:
        """Raises InvalidInput; Unsupported when the version cannot answer so."""
        encoding = _ENCODINGS.get(request.encoding)
        if encoding is None:
            raise InvalidInput(
                f"encoding is {tensors.type_name(request.encoding)}; embeddings are answered as DATA_TYPE_FLOAT32, "
                "DATA_TYPE_FLOAT16, DATA_TYPE_INT8 or DATA_TYPE_BINARY",
                reason="BAD_ENCODING",
                field="encoding",
            )
        quantization = _quantization(model, request.normalize) if encoding in _QUANTIZED else None
        return cls(encoding, request.normalize, quantization)

    @property
    def is_plain(self) -> bool:
        """Whether embeddings are answered as the graph gives them."""
        return self.encoding == "float32" and not self.normalize

    @property
    def scale(self) -> float | None:
        """Of int8."""
        return self.quantization.scale if self.quantization and self.encoding == "int8" else None

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """float32 [n, embedding size] -> of the encoding's type, [n, embedding size]; of binary uint8 [n, bytes]."""
        values = normalized(embeddings) if self.normalize else embeddings
        if self.quantization is not None:
            return self.quantization.int8(values) if self.encoding == "int8" else self.quantization.binary(values)
        return float16(values) if self.encoding == "float16" else values


def read(request: pb.DecodeRequest, model: LiveModel, max_rows: int) -> np.ndarray:
    """The request's embeddings, float32 [n, embedding size].

    Raises InvalidInput; Unsupported for those from which rows cannot be told.
    """
    given = request.embedding.data_type
    if request.normalized:
        _refuse("normalized", "normalised embeddings have lost their lengths, and with these the rows")
    if given == pb.DATA_TYPE_BINARY:
        _refuse("embedding.data_type", "of BINARY embeddings only bits are left")
    size = model.manifest.embedding_size
    values = tensors.decode(request, "embedding", [size], max_rows, types=_INVERTIBLE)
    if values.dtype == DTYPES["float32"]:
        return values
    floats = values.astype(np.float32)
    return floats * np.float32(_quantization(model, False).scale) if given == pb.DATA_TYPE_INT8 else floats


def _refuse(field: str, why: str) -> NoReturn:
    raise Unsupported(
        f"{why}: Decode takes FLOAT32, FLOAT16 and INT8 embeddings that are not normalised",
        reason="NOT_INVERTIBLE",
        field=field,
    )


def _quantization(model: LiveModel, normalize: bool) -> Quantization:
    """Raises Unsupported where the version was made without one."""
    quantizations = model.manifest.quantization
    if quantizations is None:
        raise Unsupported(
            f"version {model.version} of {model.name!r} was made without INT8 and BINARY embeddings: "
            "hourglass-train calibrate makes a version that has them",
            reason="NO_QUANTIZATION",
        )
    return quantizations.normalized if normalize else quantizations.plain
