"""Tensors and parameters of the Open Inference Protocol, against numpy and the messages themselves."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hourglass.contract.manifest import Manifest
from hourglass.contract.schema import Column
from service import open_inference, open_models, open_parameters, open_tensors, wire
from service.errors import InvalidInput, NotOffered
from service.index import Listed
from service.oip import open_inference_pb2 as pb
from service.open_parameters import Options
from tests import artefacts

WIDTH = 3
MOST = 64
LINEAR = artefacts.Linear.random(width=WIDTH)
MANIFEST = artefacts.manifest(LINEAR, LINEAR.graphs())
DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
CONTENTS = {
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "BOOL": "bool_contents",
    "UINT64": "uint64_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def request(values: np.ndarray, datatype: str, *, typed: bool = False) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m")
    tensor = made.inputs.add(name="input", datatype=datatype, shape=values.shape)
    if typed:
        getattr(tensor.contents, CONTENTS[datatype]).extend(values.ravel().tolist())
    else:
        made.raw_input_contents.append(values.tobytes())
    return made


def decoded(asked: Any, manifest: Manifest = MANIFEST) -> np.ndarray:
    return open_tensors.decode(asked, manifest, MOST)


def refused(asked: Any, manifest: Manifest = MANIFEST) -> InvalidInput:
    with pytest.raises(InvalidInput) as raised:
        decoded(asked, manifest)
    return raised.value


arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda datatype: st.tuples(
        st.just(datatype),
        npst.arrays(
            DTYPES[datatype],
            st.tuples(st.integers(1, 5), st.just(WIDTH)),
            elements=None if "f" not in DTYPES[datatype] else {"allow_nan": False, "allow_infinity": False},
        ),
    )
)


@given(arrays, st.booleans())
def test_numbers_arrive_as_they_are_or_are_refused(given_: tuple[str, np.ndarray], typed: bool) -> None:
    datatype, values = given_
    asked = request(values, datatype, typed=typed and datatype in CONTENTS)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32)
    # Python compares whole numbers with floats exactly.
    pairs = zip(values.ravel().tolist(), expected.ravel().tolist(), strict=True)
    held = [bool(np.isfinite(b)) if datatype == "FP64" else a == b for a, b in pairs]
    if all(held):
        rows = decoded(asked)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, expected)
        return
    error = refused(asked)
    assert (error.reason, error.row) == ("NOT_EXACT", held.index(False) // WIDTH)


@pytest.mark.parametrize(
    ("datatype", "value", "exact"),
    [
        ("INT32", 2**24, True),
        ("INT32", 2**24 + 1, False),
        ("INT32", 2**24 + 2, True),
        ("INT64", -(2**63), True),
        ("INT64", 2**63 - 1, False),
        ("INT64", -(2**62) - 1, False),
        ("UINT64", 2**63, True),
        ("UINT64", 2**64 - 1, False),
        ("UINT32", 2**32 - 2**8, True),
        ("UINT32", 2**32 - 1, False),
        ("FP64", 0.1, True),  # rounded, as a table's numbers are
        ("FP64", 1e39, False),
    ],
)
def test_whole_numbers_are_exact_and_nothing_becomes_infinite(datatype: str, value: float, exact: bool) -> None:
    asked = request(np.array([[1, 2, 3], [1, value, 3]], dtype=DTYPES[datatype]), datatype)
    if exact:
        assert decoded(asked)[1, 1] == np.float32(value)
    else:
        error = refused(asked)
        assert (error.reason, error.row) == ("NOT_EXACT", 1)
        assert "feature 1" in str(error)


@given(npst.arrays("<f4", (2, WIDTH), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bf16_is_the_upper_half_of_a_float32(values: np.ndarray) -> None:
    upper = values.view("<u4") >> 16
    made = request(upper.astype("<u2"), "BF16")
    np.testing.assert_array_equal(decoded(made), (upper << 16).view("<f4"))


def test_fp32_is_not_copied_and_large_requests_are_decoded_where_they_are() -> None:
    values = np.random.default_rng(0).standard_normal((40, WIDTH)).astype("<f4")
    received = request(values, "FP32").SerializeToString()
    large = wire.large_request(received, pb.ModelInferRequest.FromString, open_tensors.RAW)
    assert large is not None
    assert not large.message.raw_input_contents
    rows = decoded(large)
    np.testing.assert_array_equal(rows, values)
    assert np.shares_memory(rows, np.frombuffer(received, "u1"))


def test_an_id_that_looks_like_a_tensor_of_the_native_api_stays_an_id() -> None:
    text = "\x1a\x03abc"  # field 3, in field 3: where hourglass.v1 has its rows
    made = request(np.ones((1, WIDTH), "<f4"), "FP32")
    made.id = text
    large = wire.large_request(made.SerializeToString(), pb.ModelInferRequest.FromString, open_tensors.RAW)
    assert large is not None
    assert large.id == text


def change(**fields: Any) -> pb.ModelInferRequest:
    made = request(np.ones((2, WIDTH), "<f4"), "FP32")
    for name, value in fields.items():
        setattr(made.inputs[0], name, value)
    return made


def test_what_is_wrong_is_named() -> None:
    ones = np.ones((2, WIDTH), "<f4")
    two = request(ones, "FP32")
    two.inputs.add().CopyFrom(two.inputs[0])
    several = request(ones, "FP32")
    several.raw_input_contents.append(b"1234")
    mixed = request(ones, "FP32")
    mixed.inputs[0].contents.fp32_contents.append(1)
    shared = request(ones, "FP32")
    shared.inputs[0].parameters["shared_memory_region"].string_param = "here"
    typed_half = change(datatype="FP16")
    typed_half.ClearField("raw_input_contents")
    wrong_field = request(ones, "FP32", typed=True)
    wrong_field.inputs[0].datatype = "FP64"
    short = request(ones, "FP32", typed=True)
    short.inputs[0].contents.fp32_contents.pop()
    small = request(np.array([[1, 2, 300]]), "INT32", typed=True)
    small.inputs[0].datatype = "INT8"
    wide = request(np.ones((1, WIDTH + 1), "<f4"), "FP32")
    cases = [
        (pb.ModelInferRequest(), "EMPTY", "inputs"),
        (change(name="INPUT0"), "BAD_INPUT", "inputs"),
        (two, "BAD_INPUT", "inputs"),
        (change(datatype="BYTES"), "BAD_DTYPE", "inputs.input.datatype"),
        (change(datatype="float32"), "BAD_DTYPE", "inputs.input.datatype"),
        (change(datatype="FP64"), "SHAPE_MISMATCH", "raw_input_contents"),
        (several, "SHAPE_MISMATCH", "raw_input_contents"),
        (mixed, "MIXED_CONTENTS", "raw_input_contents"),
        (shared, "BAD_PARAMETER", "parameters.shared_memory_region"),
        (typed_half, "BAD_DTYPE", "inputs.input.contents"),
        (wrong_field, "BAD_DTYPE", "inputs.input.contents"),
        (short, "SHAPE_MISMATCH", "inputs.input.contents"),
        (small, "NOT_EXACT", "inputs.input"),
        (wide, "SHAPE_MISMATCH", "inputs.input.shape"),
        (request(np.zeros((0, WIDTH), "<f4"), "FP32"), "EMPTY", "inputs.input.shape"),
        (request(np.zeros((MOST + 1, WIDTH), "<f4"), "FP32"), "TOO_MANY_ROWS", "inputs.input.shape"),
        (request(np.array([[2, 0, 1]], "u1"), "BOOL"), "NOT_EXACT", "inputs.input"),
        (request(np.array([[0, np.nan, 0]], "<f2"), "FP16"), "NON_FINITE", "inputs.input"),
    ]
    for asked, reason, field in cases:
        error = refused(asked)
        assert (error.reason, error.field) == (reason, field), str(error)


def test_codes_of_categories_are_checked_whatever_their_datatype() -> None:
    columns = [Column(name="kind", type="categorical", categories=["a", "b"]), Column(name="x"), Column(name="y")]
    manifest = artefacts.manifest(LINEAR, LINEAR.graphs(), columns)
    np.testing.assert_array_equal(decoded(request(np.array([[2, 7, 8]], "i1"), "INT8"), manifest), [[2, 7, 8]])
    assert refused(request(np.array([[3, 7, 8]], "i1"), "INT8"), manifest).reason == "BAD_CATEGORY"


answers = st.sampled_from(["<f4", "<i4", "?"]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=3, max_side=4))
)


@example("", [np.zeros((0, 2), "<f4")], True)
@given(st.text(max_size=20), st.lists(answers, max_size=4), st.booleans())
def test_an_answer_is_the_message_it_says_it_is(request_id: str, values: list[np.ndarray], raw: bool) -> None:
    version = pb.ModelInferResponse(model_name="m", model_version="7").SerializeToString()
    outputs = [(f"output{i}", one) for i, one in enumerate(values)]
    made = open_tensors.answer(version, request_id, outputs, raw)
    read = pb.ModelInferResponse.FromString(made) if isinstance(made, bytes) else made
    assert (read.model_name, read.model_version, read.id) == ("m", "7", request_id)
    assert [output.name for output in read.outputs] == [name for name, _ in outputs]
    assert len(read.raw_output_contents) == (len(values) if raw else 0)
    for i, (output, one) in enumerate(zip(read.outputs, values, strict=True)):
        datatype, contents = open_tensors.DATATYPES[one.dtype.kind]
        assert (output.datatype, list(output.shape)) == (datatype, list(one.shape))
        if raw:
            assert read.raw_output_contents[i] == one.tobytes()
        else:
            np.testing.assert_array_equal(np.array(getattr(output.contents, contents), one.dtype), one.ravel())


def parameters(**values: Any) -> dict[str, pb.InferParameter]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{fields[type(value)]: value}) for name, value in values.items()}


def test_parameters_are_read_also_from_clients_that_only_have_texts() -> None:
    every = {"false_alarm_rate": 0.01, "top_features": 3, "normalize": True, "timeout": 1500, "priority": 1}
    expected = Options(0.01, 3, True, 0.0015, True)
    assert open_parameters.read(parameters(**every)) == expected
    assert open_parameters.read(parameters(**{name: str(value) for name, value in every.items()})) == expected
    assert open_parameters.read({}) == Options()
    ignored = parameters(sequence_id=3, sequence_start=True, triton_enable_empty_final_response=True, headers="x")
    assert open_parameters.read(ignored) == Options()
    usual = parameters(priority=2, timeout=0, normalize=False, top_features=0)
    assert open_parameters.read(usual) == Options()
    assert open_parameters.read({"priority": pb.InferParameter(uint64_param=1)}).urgent


@pytest.mark.parametrize(
    "wrong",
    [
        {"treshold": 1.0},
        {"false_alarm_rate": "often"},
        {"false_alarm_rate": True},
        {"top_features": 1.5},
        {"normalize": 1},
        {"normalize": "yes"},
        {"timeout": -1},
        {"timeout": 1e300},
        {"priority": -1},
        {"priority": "nan"},
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as raised:
        open_parameters.read(parameters(**wrong))
    (name,) = wrong
    assert (raised.value.reason, raised.value.field) == ("BAD_PARAMETER", f"parameters.{name}")
    assert name in str(raised.value)


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidInput, match="top_features is None"):
        open_parameters.read({"top_features": pb.InferParameter()})


def test_no_more_is_run_than_is_asked_for() -> None:
    needs = open_models.needs
    assert needs(("embedding",)) == ("embedding",)
    assert needs(("score", "reconstruction")) == ("score", "reconstruction")
    assert needs(("p_value",)) == ("score", "p_value")
    assert needs(("is_anomaly", "score")) == ("score", "clipped", "missing", "unknown")
    assert needs(("top_share", "top_feature")) == ("feature_error", "reconstruction")


class Fake:
    """A model that keeps what it was asked for."""

    name, version, manifest = "m", 7, MANIFEST

    async def infer(
        self, rows: np.ndarray, outputs: Any, timeout: float | None, *, patience: float | None, urgent: bool
    ) -> dict[str, Any]:
        self.asked = (rows.shape, outputs, timeout, patience, urgent)
        return {name: np.zeros(len(rows), "<f4") for name in outputs}

    def get(self, name: str, version: int) -> Fake:
        return self


@pytest.mark.parametrize(
    ("microseconds", "remaining", "patience"),
    [(None, None, None), (0, None, None), (2_000_000, None, 2.0), (None, 3.0, None), (2_000_000, 1.0, 2.0)],
)
async def test_the_engine_is_asked_for_what_is_needed_and_told_who_waits(
    microseconds: int | None, remaining: float | None, patience: float | None
) -> None:
    fake = Fake()
    service = open_inference.OpenInference(
        fake, None, {}, max_rows=MOST, delay=0.0, may_control=False, ready=lambda: True
    )
    made = request(np.ones((2, WIDTH), "<f4"), "FP32")
    made.outputs.add(name="p_value")
    for urgent in (False, True):
        if microseconds is not None:
            made.parameters["timeout"].int64_param = microseconds
        if urgent:
            made.parameters["priority"].uint64_param = 1
        await service.ModelInfer(made, SimpleNamespace(time_remaining=lambda: remaining))
        assert fake.asked == ((2, WIDTH), ("score", "p_value"), remaining, patience, urgent)


class Folder:
    """A repository that keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def index(self) -> list[Listed]:
        return [Listed("m", "2", "LOADING"), Listed("m", "1", "READY"), Listed("n", "1", "UNAVAILABLE", "bad hash")]

    async def load(self, name: str) -> None:
        self.asked.append(("load", name))

    async def unload(self, name: str) -> None:
        self.asked.append(("unload", name))


def over(folder: Folder, *, may_control: bool) -> open_inference.OpenInference:
    return open_inference.OpenInference(
        Fake(), folder, {}, max_rows=MOST, delay=0.0, may_control=may_control, ready=lambda: True
    )


async def test_the_index_says_what_is_not_ready_and_why() -> None:
    service = over(Folder(), may_control=False)
    every = (await service.RepositoryIndex(pb.RepositoryIndexRequest(), None)).models
    assert [(one.name, one.version, one.state, one.reason) for one in every] == [
        ("m", "2", "LOADING", ""),
        ("m", "1", "READY", ""),
        ("n", "1", "UNAVAILABLE", "bad hash"),
    ]
    ready = (await service.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), None)).models
    assert [(one.name, one.version) for one in ready] == [("m", "1")]


async def test_models_are_loaded_and_unloaded_only_where_that_is_allowed_and_never_from_the_request() -> None:
    folder = Folder()
    load, unload = pb.RepositoryModelLoadRequest(model_name="m"), pb.RepositoryModelUnloadRequest(model_name="m")
    closed, open_ = over(folder, may_control=False), over(folder, may_control=True)
    for call in (closed.RepositoryModelLoad(load, None), closed.RepositoryModelUnload(unload, None)):
        with pytest.raises(NotOffered, match="--model-control explicit"):
            await call
    given_files = pb.RepositoryModelLoadRequest(model_name="m")
    given_files.parameters["file:1/model.onnx"].bytes_param = b"x"
    elsewhere = pb.RepositoryModelLoadRequest(model_name="m", repository_name="other")
    for refused_, reason in ((given_files, "BAD_PARAMETER"), (elsewhere, "BAD_REPOSITORY")):
        with pytest.raises(InvalidInput) as raised:
            await open_.RepositoryModelLoad(refused_, None)
        assert raised.value.reason == reason
    assert folder.asked == []
    unload.parameters["unload_dependents"].bool_param = True
    await open_.RepositoryModelLoad(load, None)
    await open_.RepositoryModelUnload(unload, None)
    assert folder.asked == [("load", "m"), ("unload", "m")]
    extensions = (await open_.ServerMetadata(pb.ServerMetadataRequest(), None)).extensions
    assert "model_repository" in extensions


def test_every_field_has_the_number_of_the_protocol() -> None:
    """Of what travels in every ModelInfer: written by hand, as a client of another server would."""
    values = struct.pack("<3f", 1, 2, 3)
    sent = b"\x0a\x01m" + b"\x12\x011" + b"\x1a\x02id"
    sent += b"\x2a\x11" + b"\x0a\x05input" + b"\x12\x04FP32" + b"\x1a\x02\x01\x03"
    sent += b"\x32\x07" + b"\x0a\x05score" + b"\x3a\x0c" + values
    read = pb.ModelInferRequest.FromString(sent)
    assert (read.model_name, read.model_version, read.id) == ("m", "1", "id")
    assert (read.inputs[0].name, read.inputs[0].datatype, list(read.inputs[0].shape)) == ("input", "FP32", [1, 3])
    assert [output.name for output in read.outputs] == ["score"]
    assert list(read.raw_input_contents) == [values]
