"""Tensors of the Open Inference Protocol <-> numpy.

What a model takes is float32. Other numbers are taken where they stay what they are: whole numbers must come out the
same, and of FP64 nothing may become infinite that is not; it is rounded to the nearest, as numbers of tables are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from hourglass.contract.manifest import INPUT, Manifest
from service import tensors, wire
from service.aside import FEW_NUMBERS
from service.errors import InvalidInput
from service.oip import open_inference_pb2 as pb
from service.open_parameters import ignore

_FLOAT32 = np.dtype("<f4")
_FIELD = f"inputs.{INPUT}"
_RAW_FIELD = "raw_input_contents"
# Where the rows' bytes are in a request of raw contents.
RAW = (pb.ModelInferRequest.DESCRIPTOR.fields_by_name[_RAW_FIELD].number,)
_ANSWER = wire.fields(pb.ModelInferResponse)
# How an answer travels, by the kind of its numbers: name, and where typed contents have them.
DATATYPES = {"f": ("FP32", "fp32_contents"), "i": ("INT32", "int_contents"), "b": ("BOOL", "bool_contents")}


class _Datatype(NamedTuple):
    """dtype: of the raw bytes. contents: where typed contents have it, None for nowhere."""

    dtype: np.dtype[Any]
    contents: str | None


_TAKEN = {
    name: _Datatype(np.dtype(dtype), contents)
    for name, dtype, contents in (
        ("BOOL", "u1", "bool_contents"),
        ("UINT8", "u1", "uint_contents"),
        ("UINT16", "<u2", "uint_contents"),
        ("UINT32", "<u4", "uint_contents"),
        ("UINT64", "<u8", "uint64_contents"),
        ("INT8", "i1", "int_contents"),
        ("INT16", "<i2", "int_contents"),
        ("INT32", "<i4", "int_contents"),
        ("INT64", "<i8", "int64_contents"),
        ("FP16", "<f2", None),
        ("BF16", "<u2", None),  # numpy has none: the upper half of a float32
        ("FP32", "<f4", "fp32_contents"),
        ("FP64", "<f8", "fp64_contents"),
    )
}
_WIDE = np.dtype("i8")


def is_raw(request: pb.ModelInferRequest | wire.LargeRequest) -> bool:
    return isinstance(request, wire.LargeRequest) or bool(request.raw_input_contents)


def is_quick(request: pb.ModelInferRequest | wire.LargeRequest) -> bool:
    """Whether nobody would notice on the event loop how long it takes to read the numbers, and to answer typed ones."""
    if request.ByteSize() <= 4 * FEW_NUMBERS and not isinstance(request, wire.LargeRequest):
        return True
    return is_raw(request) and all(tensor.datatype == "FP32" for tensor in request.inputs[:1])


def decode(request: pb.ModelInferRequest | wire.LargeRequest, manifest: Manifest, max_rows: int) -> np.ndarray:
    """The caller's rows, float32 [n, *row_shape], of FP32 as a read-only view of the received bytes.

    Every size is checked before anything of it is allocated. Raises InvalidInput naming field and row.
    """
    tensor = _input(request)
    datatype = _TAKEN.get(tensor.datatype)
    if datatype is None:
        raise InvalidInput(
            f"datatype is {tensor.datatype[:16]!r}; the model takes FP32, and {', '.join(_TAKEN)} that it can hold",
            reason="BAD_DTYPE",
            field=f"{_FIELD}.datatype",
        )
    shape = tensor.shape[:]
    tensors.check_shape(_FIELD, shape, manifest.row_shape, max_rows)
    if is_raw(request):
        numbers = _from_raw(request, tensor, shape, datatype.dtype)
    else:
        numbers = _from_contents(tensor, shape, datatype)
    rows = _as_float32(numbers, tensor.datatype)
    tensors.check_values(_FIELD, rows, manifest.row_schema, manifest.takes_missing)
    return rows


def _input(request: pb.ModelInferRequest | wire.LargeRequest) -> pb.ModelInferRequest.InferInputTensor:
    inputs = request.inputs
    if len(inputs) != 1 or inputs[0].name != INPUT:
        names = [tensor.name[:64] for tensor in inputs[:8]]
        came = f"{', '.join(map(repr, names))} came" if names else "none came"
        raise InvalidInput(
            f"the model takes one input, {INPUT!r}; {came}", reason="BAD_INPUT" if names else "EMPTY", field="inputs"
        )
    tensor: pb.ModelInferRequest.InferInputTensor = inputs[0]
    for name in tensor.parameters:
        ignore(name, f"parameter {name[:64]!r} of an input: there is none here, nor shared memory; send its contents")
    return tensor


def _from_raw(
    request: pb.ModelInferRequest | wire.LargeRequest,
    tensor: pb.ModelInferRequest.InferInputTensor,
    shape: list[int],
    dtype: np.dtype[Any],
) -> np.ndarray:
    if tensor.HasField("contents"):
        raise InvalidInput(
            f"both contents and {_RAW_FIELD} are set: send one of them", reason="MIXED_CONTENTS", field=_RAW_FIELD
        )
    # Of a message read once: each access copies the bytes.
    every = [request.data] if isinstance(request, wire.LargeRequest) else list(request.raw_input_contents)
    if len(every) != 1:
        raise InvalidInput(f"{len(every)} raw contents for one input", reason="SHAPE_MISMATCH", field=_RAW_FIELD)
    expected = prod(shape) * dtype.itemsize
    if len(every[0]) != expected:
        raise InvalidInput(
            f"{_RAW_FIELD} has {len(every[0])} bytes; shape {shape} of {tensor.datatype} takes {expected}",
            reason="SHAPE_MISMATCH",
            field=_RAW_FIELD,
        )
    values: np.ndarray = np.ndarray(shape, dtype, every[0])
    return values


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor, shape: list[int], datatype: _Datatype) -> np.ndarray:
    field = f"{_FIELD}.contents"
    if datatype.contents is None:
        raise InvalidInput(
            f"{tensor.datatype} has no typed contents: send {_RAW_FIELD}", reason="BAD_DTYPE", field=field
        )
    given = getattr(tensor.contents, datatype.contents)
    others = [one.name for one, values in tensor.contents.ListFields() if one.name != datatype.contents and len(values)]
    if others:
        raise InvalidInput(
            f"{others[0]} is set; {tensor.datatype} is in {datatype.contents}", reason="BAD_DTYPE", field=field
        )
    if len(given) != prod(shape):
        raise InvalidInput(
            f"{datatype.contents} has {len(given)} numbers; shape {shape} takes {prod(shape)}",
            reason="SHAPE_MISMATCH",
            field=field,
        )
    if datatype.contents not in ("int_contents", "uint_contents"):
        return np.array(given, dtype=datatype.dtype).reshape(shape)
    wide = np.array(given, dtype=_WIDE).reshape(shape)  # which are 32 bits, whatever the datatype
    ends = np.iinfo(datatype.dtype)
    _refuse_where((wide < ends.min) | (wide > ends.max), wide, f"is no {tensor.datatype}")
    return wide


def _as_float32(numbers: np.ndarray, datatype: str) -> np.ndarray:
    if datatype == "FP32":
        return numbers
    if datatype == "BF16":
        return (numbers.astype("<u4") << 16).view(_FLOAT32)
    if datatype == "BOOL":
        _refuse_where(numbers > 1, numbers, "is no BOOL, which is 0 or 1")
    with np.errstate(over="ignore"):
        rows = numbers.astype(_FLOAT32)
    if datatype == "FP64":
        _refuse_where(np.isinf(rows) & np.isfinite(numbers), numbers, "is too large for float32")
    elif numbers.dtype.itemsize > 2 and numbers.dtype.kind in "iu":
        _refuse_where(~_exact(numbers), numbers, "is a whole number that float32 has not: it has all up to 2**24")
    return rows


def _exact(numbers: np.ndarray) -> np.ndarray:
    """Which whole numbers float32 has: those of at most 24 binary digits from the first 1 to the last."""
    signed = numbers.dtype.kind == "i"
    sizes = np.abs(numbers.astype(np.int64)).view(np.uint64) if signed else numbers.astype(np.uint64)
    last = sizes & (~sizes + np.uint64(1))
    exact: np.ndarray = (sizes >> np.uint64(24) < last) | (sizes == 0)
    return exact


def _refuse_where(bad: np.ndarray, numbers: np.ndarray, why: str) -> None:
    if not bad.any():
        return
    row, *feature = map(int, np.unravel_index(bad.argmax(), bad.shape))
    raise InvalidInput(
        f"row {row}, feature {'x'.join(map(str, feature))}: {numbers[(row, *feature)]} {why}",
        reason="NOT_EXACT",
        field=_FIELD,
        row=row,
    )


def answer(
    version: bytes, request_id: str, outputs: Sequence[tuple[str, np.ndarray]], raw: bool
) -> pb.ModelInferResponse | bytes:
    """version: fields of the response that say whose it is, serialised. outputs: float, int or bool arrays, answered as
    FP32, INT32 and BOOL: raw as bytes without messages, which would copy them thrice."""
    if not raw:
        response = pb.ModelInferResponse.FromString(version)
        response.id = request_id
        response.outputs.extend(_typed(name, values) for name, values in outputs)
        return response
    parts: list[Any] = [version]
    if request_id:
        encoded = request_id.encode()
        parts += (wire.start(_ANSWER["id"], len(encoded)), encoded)
    contents: list[Any] = []
    for name, values in outputs:
        kind = values.dtype.kind
        described, start = _described(name, kind, values.shape)
        parts.append(described)
        contents += (start, np.ascontiguousarray(values, dtype=wire.TYPES[kind][1]))
    return b"".join(parts + contents)


@lru_cache(maxsize=1024)  # shapes are the callers'
def _described(name: str, kind: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The tensor without its contents, and what comes before these."""
    tensor = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=DATATYPES[kind][0], shape=shape)
    size = prod(shape) * wire.TYPES[kind][1].itemsize
    return wire.message(_ANSWER["outputs"], tensor), wire.start(_ANSWER["raw_output_contents"], size)


def _typed(name: str, values: np.ndarray) -> pb.ModelInferResponse.InferOutputTensor:
    datatype, contents = DATATYPES[values.dtype.kind]
    numbers = pb.InferTensorContents(**{contents: values.ravel().tolist()})
    return pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=values.shape, contents=numbers)
