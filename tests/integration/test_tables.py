"""Named columns of mixed types through the real server: by the wire, by the client, by the program."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourglass import Client, HourglassError, benjamini_hochberg
from hourglass.cli import run
from hourglass.contract.manifest import AsideColumns
from hourglass.contract.schema import Column, Schema
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

COLUMNS = (
    Column(name="age"),
    Column(name="colour", type="categorical", categories=("red", "green", "3")),
    Column(name="ok", type="boolean"),
    Column(name="flow"),
)
SCHEMA = Schema(COLUMNS)
FILLING, REFUSING = artefacts.Linear.random(seed=1, fill=True), artefacts.Linear.random(seed=1)
ASIDE = AsideColumns(label="broken", id="serial", time="at", ignored=["note"])
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NUMBERS = {np.dtype(name): kind for name, kind in (
    ("f4", pb.DATA_TYPE_FLOAT32), ("f8", pb.DATA_TYPE_FLOAT64), ("i4", pb.DATA_TYPE_INT32),
    ("i8", pb.DATA_TYPE_INT64), ("?", pb.DATA_TYPE_BOOL),
)}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "filling", FILLING, columns=COLUMNS, aside=ASIDE)
    artefacts.publish(exported, "refusing", REFUSING, columns=COLUMNS)
    artefacts.publish(exported, "plain", REFUSING)
    artefacts.publish(exported, "sampler", artefacts.Linear.random(seed=2, prior=True), columns=COLUMNS)
    server = Serve(exported, "--max-batch-rows", "100").wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def stub(server: Serve) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield wire.stub(channel)


@pytest.fixture(scope="module")
def client(server: Serve) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def column(name: str, values: Any) -> pb.Column:
    array = np.asarray(values)
    if array.dtype.kind in "OU":
        return pb.Column(name=name, texts=pb.Texts(values=array.tolist()))
    tensor = pb.Tensor(data_type=NUMBERS[array.dtype], shape=array.shape, data=array.tobytes())
    return pb.Column(name=name, numbers=tensor)


def table(**changed: Any) -> dict[str, Any]:
    """Two good rows, with some columns changed; None: left out."""
    columns = {"age": np.array([20.0, 30.0]), "colour": ["red", "green"], "ok": ["yes", "F"], "flow": np.array([1, 2])}
    return {name: values for name, values in (columns | changed).items() if values is not None}


def encoded(columns: dict[str, Any]) -> np.ndarray:
    arrays = {
        name: np.asarray(v, dtype=object) if np.asarray(v).dtype.kind == "U" else v for name, v in columns.items()
    }
    return SCHEMA.encode(arrays, takes_missing=True).rows


def asked(columns: dict[str, Any] | list[pb.Column]) -> pb.Table:
    listed = columns if isinstance(columns, list) else [column(name, values) for name, values in columns.items()]
    return pb.Table(columns=listed)


TEXTS = st.sampled_from(["red", " green ", "3", "", " ", "blue", "Red", "é"])
FLAGS = st.sampled_from(["true", "NO", "y", "f", "", "1", "0"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(1, 20), dtype=st.sampled_from(["f4", "f8", "i4", "i8", "?"]))
def test_a_table_is_answered_as_its_tensor(stub: Any, data: st.DataObject, n: int, dtype: str) -> None:
    def draw(cells: Any) -> list[Any]:
        return data.draw(st.lists(cells, min_size=n, max_size=n))

    numbers = st.one_of(st.floats(-1e3, 1e3, width=32), st.just(math.nan))
    columns = {
        "age": np.array(draw(numbers), "f8"),
        "colour": draw(TEXTS) if data.draw(st.booleans()) else np.array(draw(st.integers(1, 4)), "i8"),
        "ok": draw(FLAGS) if data.draw(st.booleans()) else np.array(draw(st.booleans())),
        "flow": np.array(draw(st.integers(0, 1)), dtype),
        "serial": draw(TEXTS),
    }
    rows = encoded(columns)
    shuffled = dict(data.draw(st.permutations(list(columns.items()))))
    for rpc in ("Embed", "Denoise", "Score"):
        request = getattr(pb, f"{rpc}Request")
        by_name = getattr(stub, rpc)(request(model="filling", table=asked(shuffled)))
        assert by_name == getattr(stub, rpc)(request(model="filling", tensor=wire.tensor(rows)))
    np.testing.assert_array_equal(wire.values(by_name.missing), np.isnan(rows).sum(axis=1))
    np.testing.assert_array_equal(wire.values(by_name.unknown), rows[:, 1] == 0)
    expected = FILLING.answers(rows)["score"]
    np.testing.assert_allclose(wire.values(by_name.score), expected, rtol=1e-3, atol=1e-4)


BAD_TABLES = {
    "no columns": ([], "EMPTY", "the table has no columns", "", None),
    "no rows": ({name: np.zeros(0) for name in SCHEMA.names}, "EMPTY", "no rows", "", None),
    "too many rows": ({name: np.zeros(101) for name in SCHEMA.names}, "TOO_MANY_ROWS", "101 rows", "", None),
    "a claimed size": (
        [pb.Column(name=n, numbers=pb.Tensor(data_type=1, shape=[2**62])) for n in SCHEMA.names],
        "TOO_MANY_ROWS", str(2**62), "", None,
    ),
    "missing": (table(age=None, aged=[1.0, 2.0]), "MISSING_COLUMN", "'age': did you mean 'aged'", "age", None),
    "twice": ([*asked(table()).columns, column("ok", ["y", "y"])], "BAD_COLUMN", "'ok': it comes twice", "ok", None),
    "longer": (table(flow=[1.0, 2.0, 3.0]), "BAD_COLUMN", "it has 3 rows, and column 'age' has 2", "flow", None),
    "texts for numbers": (table(flow=["1", "2"]), "BAD_COLUMN", "'flow' is numeric, and texts came", "flow", None),
    "a matrix": (table(flow=np.zeros((2, 1))), "SHAPE_MISMATCH", r"is \[2, 1\], not \[n\]", "flow", None),
    "no data type": (
        [*asked(table(flow=None)).columns, pb.Column(name="flow", numbers=pb.Tensor(shape=[2], data=bytes(8)))],
        "BAD_DTYPE", "DATA_TYPE_UNSPECIFIED", "flow", None,
    ),
    "bytes missing": (
        [*asked(table(flow=None)).columns, pb.Column(name="flow", numbers=pb.Tensor(data_type=4, shape=[2]))],
        "SHAPE_MISMATCH", "data has 0 bytes; 2 numbers of float64 take 16", "flow", None,
    ),
    "infinity": (table(age=[1.0, math.inf]), "BAD_CELL", "row 1, column 'age': inf is not a finite", "age", 1),
    "too large": (table(age=[1e39, 1.0]), "BAD_CELL", r"row 0, column 'age': 1e\+39 is not a finite", "age", 0),
    "no flag": (table(ok=["yes", "perhaps"]), "BAD_CELL", "row 1, column 'ok': 'perhaps' is neither", "ok", 1),
    "no flag either": (table(ok=np.array([0, 2])), "BAD_CELL", "row 1, column 'ok': 2 is neither", "ok", 1),
    "a hole": (table(age=[1.0, math.nan]), "BAD_CELL", "row 1, column 'age': the cell is missing", "age", 1),
    "an empty text": (table(colour=["red", " "]), "BAD_CELL", "'colour': the cell is missing", "colour", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TABLES)
@pytest.mark.parametrize("rpc", ["Embed", "Denoise", "Score"])
def test_a_bad_table_is_refused_naming_what_is_wrong(stub: Any, rpc: str, kind: str) -> None:
    columns, reason, message, name, row = BAD_TABLES[kind]
    request = getattr(pb, f"{rpc}Request")(model="refusing", table=asked(columns))
    refused = wire.failure(getattr(stub, rpc), request)
    assert (refused.code, refused.reason) == (INVALID, reason)
    assert re.search(message, refused.message)
    assert refused.metadata["field"] == (f"table.columns.{name}" if name else "table.columns")
    assert refused.metadata.get("row") == (None if row is None else str(row))


def test_a_model_without_columns_takes_no_table(stub: Any) -> None:
    refused = wire.failure(stub.Score, pb.ScoreRequest(model="plain", table=asked(table())))
    assert (refused.reason, refused.metadata["field"]) == ("NO_SCHEMA", "table")


@pytest.mark.parametrize(
    ("row", "model", "reason", "message"),
    [
        ([1, 4, 0, 1], "filling", "BAD_CATEGORY", "row 1, column 'colour': 4 is not a code of this column"),
        ([1, 0.5, 0, 1], "filling", "BAD_CATEGORY", "row 1, column 'colour': 0.5 is not a code"),
        ([1, 0, 2, 1], "filling", "BAD_CATEGORY", "row 1, column 'ok': 2 is not a code"),
        ([1, 0, 0, math.inf], "filling", "NON_FINITE", "row 1, column 'flow' is inf; .* take infinite values"),
        ([math.nan, 0, 0, 1], "refusing", "NON_FINITE", "row 1, column 'age' is nan; .* missing or infinite values"),
    ],
)
def test_a_tensor_holds_codes_and_holes(stub: Any, row: list[float], model: str, reason: str, message: str) -> None:
    rows = np.array([[1, 3, 1, 1], row], dtype=np.float32)
    refused = wire.failure(stub.Denoise, pb.DenoiseRequest(model=model, tensor=wire.tensor(rows)))
    assert (refused.code, refused.reason, refused.metadata["row"]) == (INVALID, reason, "1")
    assert refused.metadata["field"] == "tensor"
    assert re.search(message, refused.message)


def test_missing_and_unknown_cells_are_counted_and_explained(server: Serve, stub: Any) -> None:
    rows = np.array([[np.nan, 0, np.nan, 5], [1, 2, 1, 1]], dtype=np.float32)
    request = pb.ScoreRequest(model="filling", tensor=wire.tensor(rows), top_features=4, feature_errors=True)
    names = ("hourglass_missing_values_total", "hourglass_unknown_categories_total")
    answer = stub.Score(request)
    before = [server.metric(name, model="filling") for name in names]
    stub.Score(request)
    assert [server.metric(name, model="filling") for name in names] == [before[0] + 2, before[1] + 1]
    assert wire.values(answer.missing).tolist() == [2, 0]
    assert wire.values(answer.unknown).tolist() == [1, 0]
    assert wire.values(answer.feature_errors)[0, [0, 2]].tolist() == [0, 0]
    observed = dict(
        zip(wire.values(answer.top_features.feature)[0], wire.values(answer.top_features.observed)[0], strict=True)
    )
    assert np.isnan([observed[0], observed[2]]).all()
    assert observed[3] == 5


def test_a_model_says_what_its_columns_hold(client: Client) -> None:
    info = client.model("filling")
    assert (info.schema, info.takes_missing, info.aside, info.window) == (COLUMNS, True, ASIDE, None)
    assert client.model("refusing").aside == AsideColumns()
    assert client.model("plain").schema == ()


def mixed(n: int, seed: int = 0) -> dict[str, Any]:
    """Columns as people have them: holes of every kind, unknown categories, others beside them."""
    rng = np.random.default_rng(seed)
    age = rng.standard_normal(n)
    age[::7] = np.nan
    return {
        "note": [f"a text of its own, {i} " * (i % 9) for i in range(n)],
        "flow": [None if i % 5 == 4 else float(i % 11) for i in range(n)],
        "colour": rng.choice(np.array(["red", "green", "3", "blue", None], dtype=object), n),
        "ok": [None if i % 6 == 5 else i % 2 == 0 for i in range(n)],
        "age": age,
        "at": np.arange(n).astype("M8[s]"),
    }


def rows_of(columns: dict[str, Any]) -> np.ndarray:
    ok = [np.nan if flag is None else float(flag) for flag in columns["ok"]]
    flow = [np.nan if number is None else number for number in columns["flow"]]
    return encoded({**columns, "ok": np.array(ok), "flow": np.array(flow)})


def test_the_client_takes_columns_by_name(client: Client) -> None:
    columns = mixed(1_234)
    rows = rows_of(columns)
    for ask in (client.embed, client.denoise):
        np.testing.assert_array_equal(ask("filling", columns).values, ask("filling", rows).values)
    by_name, by_number = client.score("filling", columns), client.score("filling", rows)
    for name in ("score", "p_value", "missing", "unknown"):
        np.testing.assert_array_equal(getattr(by_name, name), getattr(by_number, name))
    np.testing.assert_array_equal(by_name.missing, np.isnan(rows).sum(axis=1))
    wanted = {name: columns[name][:50] for name in SCHEMA.names}
    [batch] = client.score_batches("filling", [wanted])
    np.testing.assert_array_equal(batch.score, by_name.score[:50])
    repaired = client.denoise("filling", columns).columns(client.model("filling"))
    assert list(repaired) == list(SCHEMA.names)
    assert {cell for cell in repaired["colour"] if cell is not None} <= {"red", "green", "3"}
    assert repaired["ok"].dtype == bool
    assert not np.isnan(repaired["age"]).any()


@pytest.mark.parametrize(
    ("changed", "model", "error", "message"),
    [
        ({"age": None, "aged": [1.0, 2.0]}, "filling", "MISSING_COLUMN", "no column 'age': did you mean 'aged'"),
        ({"age": None}, "filling", "MISSING_COLUMN", "no column 'age'; the model takes age, colour, ok, flow$"),
        ({"age": [1.0]}, "filling", ValueError, "columns of different lengths: 'age' has 1, "),
        ({"age": [1.0, "x"]}, "filling", TypeError, "row 1, column 'age': str after float: convert the whole column"),
        ({"age": [[1.0], [2.0]]}, "filling", TypeError, r"column 'age' has the shape \[2, 1\]"),
        ({"age": np.zeros(2, "M8[s]")}, "filling", TypeError, "column 'age' is an array of datetime64"),
        ({"age": ["1", "2"]}, "filling", "BAD_COLUMN", "'age' is numeric, and texts came: convert them to numbers"),
        ({"age": [1.0, None]}, "refusing", "BAD_CELL", "row 1, column 'age': the cell is missing"),
        ({}, "plain", "NO_SCHEMA", r"'plain' takes no named columns but an array \(`tensor`\) \[n, 4\]$"),
    ],
)
def test_columns_that_will_not_do_are_refused(
    client: Client, changed: dict[str, Any], model: str, error: Any, message: str
) -> None:
    expected = HourglassError if isinstance(error, str) else error
    with pytest.raises(expected, match=message) as refused:
        client.score(model, table(**changed))
    if isinstance(error, str):
        assert refused.value.reason == error


# --- the program ---


def written(path: Path, columns: dict[str, Any]) -> Path:
    """A file with an id, texts as they are, and holes."""
    n = len(columns["age"])
    arrays = {"serial": [f"{i:05d}" for i in range(n)], **columns, "broken": ["no"] * n}
    data = pa.table({name: pa.array(values, from_pandas=True) for name, values in arrays.items()})
    (pq.write_table if path.suffix == ".parquet" else pa.csv.write_csv)(data, path)
    return path


def hourglass(server: Serve, command: str, file: Path, *arguments: object, model: str = "filling") -> int:
    return run([command, str(file), "--model", model, "--server", server.address, *map(str, arguments)])


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_a_file_is_scored_as_its_rows(
    server: Serve, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    columns = mixed(250)
    out = tmp_path / "out.parquet"
    assert hourglass(server, "score", written(tmp_path / f"in{kind}", columns), "--out", out) == 0
    scored, expected = pq.read_table(out), client.score("filling", rows_of(columns))
    assert scored.column_names[0] == "serial"
    assert scored["serial"].to_pylist() == [f"{i:05d}" for i in range(250)]
    assert scored.column_names[-2:] == ["missing", "unknown"]
    for name in ("score", "missing", "unknown"):
        np.testing.assert_array_equal(scored[name].to_numpy(), getattr(expected, name))
    unknown = int((expected.unknown > 0).sum())
    assert f"{unknown} of 250 rows have categories that the model does not know" in capsys.readouterr().out


def test_what_is_wrong_with_a_row_is_told_in_its_own_words(
    server: Serve, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"age": [1.5, None], "colour": ["green", "blue"], "ok": [True, None], "flow": [0.25, 2.0]}
    own = [
        {"age": "1.5", "colour": "green", "ok": "true", "flow": "0.25"},
        {"age": "missing", "colour": "unknown", "ok": "missing", "flow": "2.0"},
    ]
    tops = client.score("filling", columns, top_features=4).top_features
    assert tops is not None
    assert tops.observed.dtype == np.float32
    observed, expected = tops.cells(client.model("filling"))
    names = tops.names(client.model("filling"))
    assert [dict(zip(*row, strict=True)) for row in zip(names, observed, strict=True)] == own
    assert set(expected[names == "colour"]) <= {"red", "green", "3", "unknown"}
    assert set(expected[names == "ok"]) <= {"true", "false"}

    file, out = written(tmp_path / "in.csv", columns), tmp_path / "out.csv"
    assert hourglass(server, "score", file, "--top-features", 4, "--out", out) == 0
    as_text = pa.csv.ConvertOptions(column_types={f"top{i}_observed": pa.string() for i in range(1, 5)})
    table = pa.csv.read_csv(out, convert_options=as_text)
    for i in range(4):
        assert table[f"top{i + 1}_feature"].to_pylist() == names[:, i].tolist()
        assert table[f"top{i + 1}_observed"].to_pylist() == observed[:, i].tolist()
    capsys.readouterr()
    assert hourglass(server, "score", file, "--top-features", 4) == 0
    shown = capsys.readouterr().out
    for name, seen in (*own[0].items(), *own[1].items()):
        assert re.search(rf"\b{name} +\d+% +{seen.removesuffix('.0')} +\S+ +\n", shown)


def spoil(columns: dict[str, Any]) -> tuple[dict[str, Any], dict[int, str]]:
    """The same with bad rows, and why they are."""
    ages = columns["age"].astype(object)
    ages[3], ages[120:230] = "x", "inf"
    whys = {
        3: "age: 'x' is not a number",
        **dict.fromkeys(range(120, 230), "age: 'inf' is not a finite float32 number"),
    }
    return {**columns, "age": [None if isinstance(a, float) and math.isnan(a) else str(a) for a in ages]}, whys


@pytest.mark.parametrize("flags", [[], ["--control-fdr", "--false-alarm-rate", "0.3"]])
def test_bad_rows_become_empty_lines_and_the_others_stay(
    server: Serve, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    clean = mixed(350)
    spoiled, whys = spoil(clean)
    file, out = written(tmp_path / "in.csv", spoiled), tmp_path / "out.parquet"
    assert hourglass(server, "score", file, *flags, "--out", out) == 2
    assert "in.csv, line 5, column 'age': 'x' is not a number: correct it or remove the row" in capsys.readouterr().err
    assert not out.exists()
    assert hourglass(server, "score", file, *flags, "--bad-rows", "null", "--out", out) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"111 of 350 rows could not be used and are left empty; the first: .*in.csv, line 5", said)
    scored = pq.read_table(out)
    good = np.array([i not in whys for i in range(350)])
    assert scored["problem"].to_pylist() == [whys.get(i) for i in range(350)]
    assert scored["serial"].to_pylist() == [f"{i:05d}" for i in range(350)]
    expected = client.score(
        "filling", rows_of(clean)[good], control_fdr=bool(flags), false_alarm_rate=0.3 if flags else None
    )
    if flags:
        np.testing.assert_array_equal(expected.is_anomaly, benjamini_hochberg(expected.p_value, 0.3))
    for name in ("score", "is_anomaly", "missing"):
        values = scored[name].to_pylist()
        assert [value for value, kept in zip(values, good, strict=True) if not kept] == [None] * 111
        assert [value for value, kept in zip(values, good, strict=True) if kept] == getattr(expected, name).tolist()
    assert hourglass(server, "embed", file, "--bad-rows", "null", "--out", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.isnan(np.load(tmp_path / "out.npy")).all(axis=1), ~good)


def test_a_file_of_nothing_but_bad_rows_is_answered(server: Serve, tmp_path: Path) -> None:
    file = written(tmp_path / "in.csv", {**mixed(250), "age": ["x"] * 250})
    for command, *flags in (("score",), ("score", "--control-fdr"), ("denoise",), ("embed",)):
        out = tmp_path / f"{command}{len(flags)}.csv"
        assert hourglass(server, command, file, *flags, "--bad-rows", "null", "--out", out) == 0
        assert out.read_text().count("age: 'x' is not a number") == 250


def test_rows_without_columns_may_be_bad_as_well(server: Serve, client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((150, 4))
    rows[7, 2] = np.nan
    np.save(tmp_path / "in.npy", rows)
    out = tmp_path / "out.parquet"
    assert hourglass(server, "score", tmp_path / "in.npy", "--bad-rows", "null", "--out", out, model="plain") == 0
    scored = pq.read_table(out)
    assert scored["problem"].to_pylist() == [None] * 7 + ["c2: nan is a missing value"] + [None] * 142
    assert scored["score"].null_count == 1


def test_denoised_columns_have_the_types_people_read(server: Serve, client: Client, tmp_path: Path) -> None:
    columns = mixed(150)
    file, out = written(tmp_path / "in.csv", columns), tmp_path / "out.parquet"
    assert hourglass(server, "denoise", file, "--out", out) == 0
    denoised = pq.read_table(out)
    assert denoised.schema.types == [pa.string(), pa.float32(), pa.string(), pa.bool_(), pa.float32()]
    expected = client.denoise("filling", columns).columns(client.model("filling"))
    for name, values in expected.items():
        assert denoised[name].to_pylist() == values.tolist()


def test_generated_columns_have_their_types(server: Serve, client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    flags = ["--model", "sampler", "--server", server.address, "--rows", "150", "--seed", "3", "--out", str(out)]
    assert run(["generate", *flags]) == 0
    expected = client.generate("sampler", 150, seed=3).columns(client.model("sampler"))
    written = pq.read_table(out)
    assert written.schema.types == [pa.float32(), pa.string(), pa.bool_(), pa.float32()]
    assert written.to_pydict() == {name: values.tolist() for name, values in expected.items()}


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_only_what_is_missing_is_filled_in(
    server: Serve, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    columns = mixed(150)
    columns["age"][1] = 0.1  # which float32 does not hold
    file, out = written(tmp_path / f"in{kind}", columns), tmp_path / "out.parquet"
    assert hourglass(server, "denoise", file, "--only-missing", "--out", out) == 0
    filled, model = pq.read_table(out), client.denoise("filling", columns).columns(client.model("filling"))
    holes = 0
    for name in SCHEMA.names:
        own = [None if cell != cell else cell for cell in list(columns[name])]
        holes += own.count(None)
        after = filled[name].to_pylist()
        assert [a for a, o in zip(after, own, strict=True) if o is not None] == [o for o in own if o is not None]
        guessed = [(a, v) for a, o, v in zip(after, own, model[name].tolist(), strict=True) if o is None]
        for a, value in guessed:
            assert a == (pytest.approx(value) if isinstance(value, float) else value)
    assert f"{holes} missing cells filled in" in capsys.readouterr().out
    assert hourglass(server, "denoise", file, "--only-missing", "--out", out, model="refusing") == 2
    assert "--only-missing: the model 'refusing' takes no missing cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age,colour,ok\n1,red,yes\n", "no column 'flow'; it has age, colour, ok"),
        ("ages,colour,ok,flow\n1,red,yes,1\n", "no column 'age': did you mean 'ages'"),
        ("age,colour,ok,flow,ok\n1,red,yes,1,no\n", "two columns are called 'ok'"),
        ("age,colour,ok,flow\n1,red,yes,1\nold,red,yes,2\n", "line 3, column 'age': 'old' is not a number"),
        ("age,colour,ok,flow\n1,red,maybe,1\n", "line 2, column 'ok': 'maybe' is neither true nor false"),
        ("age,colour,ok,flow\n1,?,yes,1\n", "line 2, column 'colour': '?' is a missing value: fill it in"),
        ("age,colour,ok,flow\n1,red,yes,\n", "line 2, column 'flow': the cell is empty: fill it in"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(
    server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    assert hourglass(server, "score", tmp_path / "in.csv", model="refusing") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_numbers_are_categories_whatever_the_file(server: Serve, tmp_path: Path) -> None:
    data = {"age": [1.0, 2.0, 3.0], "ok": [1, 0, 1], "flow": [1, 2, 3]}
    scores = []
    for name, colour in (("a.csv", ["3", "red", "7"]), ("b.parquet", ["3", "red", "7"])):
        scores.append(_scored(server, tmp_path, name, {**data, "colour": colour}))
    assert scores[0] == scores[1]
    as_numbers = _scored(server, tmp_path, "c.parquet", {**data, "colour": [3, 7, 7]})
    assert as_numbers[0] == scores[0][0]
    assert as_numbers[2] == scores[0][2]
    dictionary = pa.array(["3", "red", "7"]).dictionary_encode()
    assert _scored(server, tmp_path, "d.parquet", {**data, "colour": dictionary}) == scores[0]


def _scored(server: Serve, folder: Path, name: str, columns: dict[str, Any]) -> list[float]:
    out = folder / "out.parquet"
    assert hourglass(server, "score", written(folder / name, columns), "--out", out) == 0
    scores: list[float] = pq.read_table(out)["score"].to_pylist()
    return scores
