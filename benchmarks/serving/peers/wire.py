"""Bodies on the wire, written by hand: the peers' protos need not be compiled here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np

from benchmarks.serving.peers.process import MODEL, Output, Rows

INFER = "/inference.GRPCInferenceService/ModelInfer"


def infer_request(rows: Rows, output: Output) -> bytes:
    """Open Inference Protocol: rows as raw contents, and only the one output asked for."""
    shape = b"".join(map(_varint, rows.shape))
    tensor = field(1, b"input") + field(2, b"FP32") + field(3, shape)
    wanted = field(1, output.encode())
    return field(1, MODEL.encode()) + field(5, tensor) + field(6, wanted) + field(7, rows.tobytes())


def infer_answer(body: bytes, output: Output) -> Rows:
    """Of raw contents, or of fp32_contents where the peer answers with them."""
    for number, value in fields(body):
        if number == 6:
            return rows_of(value, output)
    for number, value in fields(body):
        if number == 5:
            contents = dict(fields(value))[5]
            return rows_of(dict(fields(contents))[6], output)
    raise ValueError("no output in the answer")


def torchserve_request(rows: Rows, output: Output) -> bytes:
    """PredictionsRequest: a map from names to bytes, which the handler gives meaning."""
    entries = {b"rows": rows.tobytes(), b"output": output.encode()}
    inputs = b"".join(field(3, field(1, key) + field(2, value)) for key, value in entries.items())
    return field(1, MODEL.encode()) + inputs


def torchserve_answer(body: bytes, output: Output) -> Rows:
    return rows_of(dict(fields(body))[1], output)


def octets_request(rows: Rows, output: Output) -> bytes:
    """For HTTP: a line that names the output, then the rows."""
    return output.encode() + b"\n" + rows.tobytes()


def ray_request(rows: Rows, output: Output) -> bytes:
    """google.protobuf.BytesValue, as its answer is."""
    return field(1, octets_request(rows, output))


def ray_answer(body: bytes, output: Output) -> Rows:
    return rows_of(dict(fields(body))[1], output)


def bento_request(rows: Rows, output: Output) -> bytes:
    """A list of one: its batches are lists."""
    return json.dumps({"requests": [base64.b64encode(octets_request(rows, output)).decode()]}).encode()


def bento_answer(body: bytes, output: Output) -> Rows:
    return rows_of(base64.b64decode(json.loads(body)[0]), output)


def rows_of(raw: bytes, output: Output) -> Rows:
    values = np.frombuffer(raw, "<f4")
    return values if output == "score" else values.reshape(-1, 784)


def field(number: int, value: bytes) -> bytes:
    """One length-delimited field of a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; varints are passed over."""
    at = 0
    while at < len(message):
        key, at = _read(message, at)
        size, at = _read(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + size]
            at += size


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return value, at
