"""The program, against a server of numpy over a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hourglass import benjamini_hochberg
from hourglass.cli import run
from tests.hourglass import fake as answers
from tests.hourglass.fake import Failure, Fake

START = Callable[..., Fake]
RNG = np.random.default_rng(0)


@pytest.fixture
def rows() -> np.ndarray:
    return RNG.standard_normal((2500, 4)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path, rows: np.ndarray) -> Path:
    """label, b, a, d, c and an id with leading zeros; `rows` are a, b, c, d."""
    path = tmp_path / "in.csv"
    a, b, c, d = rows.T
    ids = [f"{i:06d}" for i in range(len(rows))]
    label = ["x"] * len(rows)
    pyarrow.csv.write_csv(pa.table({"label": label, "b": b, "a": a, "d": d, "c": c, "key": ids}), path)
    return path


@pytest.fixture
def named(start: START) -> Fake:
    return start(columns=("a", "b", "c", "d"))


def hourglass(fake: Fake, command: str, *arguments: object) -> int:
    return run([command, *map(str, arguments), "--model", "m", "--server", fake.address])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"hourglass: error: .+\n", err), err
    return err


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_score_writes_one_line_per_row_in_order(named: Fake, table: Path, rows: np.ndarray, kind: str) -> None:
    out = table.with_name(f"out{kind}")
    assert hourglass(named, "score", table, "--out", out, "--id", "key") == 0
    if kind == ".parquet":
        written = pq.read_table(out)
    else:
        as_text = pyarrow.csv.ConvertOptions(column_types={"key": pa.string(), "score": pa.float32()})
        written = pyarrow.csv.read_csv(out, convert_options=as_text)
    assert written.column_names == ["key", "score", "p_value", "is_anomaly", "reconstruction_error", "clipped"]
    np.testing.assert_allclose(written["reconstruction_error"].to_numpy(), answers.score(rows) / 2, rtol=1e-6)
    np.testing.assert_array_equal(written["clipped"].to_numpy(), (np.abs(rows) > answers.CLIP).sum(axis=1))
    assert written["key"].to_pylist() == [f"{i:06d}" for i in range(2500)]
    np.testing.assert_allclose(written["score"].to_numpy(), answers.score(rows), rtol=1e-6)
    np.testing.assert_array_equal(written["is_anomaly"].to_pylist(), answers.score(rows) > answers.THRESHOLD)
    assert written.schema.field("is_anomaly").type == pa.bool_()
    assert len(named.requests) == 3  # in the server's message sizes


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_scores_are_explained_by_name(named: Fake, table: Path, rows: np.ndarray, kind: str) -> None:
    out = table.with_name(f"out{kind}")
    assert hourglass(named, "score", table, "--out", out, "--top-features", 2) == 0
    written = pq.read_table(out) if kind == ".parquet" else pyarrow.csv.read_csv(out)
    columns = [f"top{i}_{what}" for i in (1, 2) for what in ("feature", "share", "observed", "expected")]
    assert written.column_names[5:] == columns
    order = np.argsort(-(rows**2), axis=1, kind="stable")
    for i in (0, 1):
        best = order[:, i]
        observed = np.take_along_axis(rows, best[:, None], axis=1)[:, 0]
        assert written[f"top{i + 1}_feature"].to_pylist() == ["abcd"[j] for j in best]
        np.testing.assert_allclose(written[f"top{i + 1}_observed"].to_numpy(), observed, rtol=1e-6)
        np.testing.assert_allclose(written[f"top{i + 1}_expected"].to_numpy(), observed / 2, rtol=1e-6)
        share = observed**2 / (rows**2).sum(axis=1)
        np.testing.assert_allclose(written[f"top{i + 1}_share"].to_numpy(), share, rtol=1e-5)


def test_more_top_features_than_there_are_is_all_of_them(named: Fake, table: Path) -> None:
    out = table.with_name("out.parquet")
    assert hourglass(named, "score", table, "--out", out, "--top-features", 2**31) == 0
    assert pq.read_schema(out).names[-1] == "top4_expected"


def test_features_of_images_go_by_their_place(start: START, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "in.npy", np.arange(12.0).reshape(2, 3, 2))
    assert hourglass(start(row_shape=(3, 2)), "score", tmp_path / "in.npy", "--top-features", 2) == 0
    assert re.search(r" 1 +75.1667 .* 2,1 +27% +11 +5.5 +\n +2,0 +22% +10 +5 ", capsys.readouterr().out)


def test_feature_errors_are_an_array_of_the_rows_shape(start: START, tmp_path: Path) -> None:
    fake, images = start(row_shape=(3, 2)), RNG.standard_normal((2000, 3, 2)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    assert hourglass(fake, "score", tmp_path / "in.npy", "--feature-errors", "--out", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), answers.feature_errors(images))


def test_the_terminal_names_features_in_a_hundred_columns(
    start: START, table: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(table.read_text().replace('"a"', '"' + "a" * 80 + '"', 1))
    named = start(columns=("a" * 80, "b", "c", "d"))
    assert hourglass(named, "score", table, "--id", "key", "--top-features", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(" anomaly " in line for line in lines) == 10
    worst = int(np.argmax(answers.score(rows)))
    feature = int(np.argmax(rows[worst] ** 2))
    [line] = [line for line in lines if f"{worst:06d}" in line]
    assert f" {rows[worst, feature]:.4g} " in line
    assert f" {rows[worst, feature] / 2:.4g} " in line


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (("embed",), {"embedding_space_id": "0123456789abcdef", "normalized": "false"}),
        (("score", "--control-fdr"), {}),
        (("denoise",), {}),
    ],
)
def test_a_parquet_says_where_it_is_from(
    named: Fake, table: Path, command: tuple[str, ...], more: dict[str, str]
) -> None:
    out = table.with_name("out.parquet")
    assert hourglass(named, command[0], table, *command[1:], "--id", "key", "--out", out) == 0
    expected = {"model": "m", "version": "7", **more}
    assert pq.read_schema(out).metadata == {f"hourglass.{k}".encode(): v.encode() for k, v in expected.items()}


@pytest.mark.parametrize(("width", "shown"), [(80, True), (60, False)])
def test_a_narrow_terminal_cuts_neither_numbers_nor_verdicts(
    start: START,
    table: Path,
    rows: np.ndarray,
    width: int,
    shown: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table.write_text(table.read_text().replace('"a"', '"' + "a" * 80 + '"', 1))
    named = start(columns=("a" * 80, "b", "c", "d"))
    assert hourglass(named, "score", table, "--id", "key", "--top-features", 3) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    scores = answers.score(rows)
    for i in np.argsort(-scores)[:10]:
        [line] = [line for line in out.splitlines() if f" {i:06d} " in line]
        cells = [f"{scores[i]:.6g}", f"{answers.p_value(scores)[i]:.4g}", "anomaly"]
        assert line.split()[2:5] == cells
        feature = int(np.argmax(rows[i] ** 2))
        assert (f" {rows[i, feature]:.4g} " in line) == shown
    assert ("no room for expected and observed: --out FILE writes all" in " ".join(out.split())) == (not shown)


def test_clipped_rows_are_counted(
    named: Fake, table: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hourglass(named, "score", table) == 0
    count = int((np.abs(rows) > answers.CLIP).any(axis=1).sum())
    expected = f"in {count} of 2,500 rows the model clipped numbers far beyond the training data"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_false_discoveries_are_controlled_over_the_whole_file(
    named: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    rows = RNG.standard_normal((2500, 4)).astype(np.float32)
    rows[:500] *= 30  # all in the first of three messages
    np.save(tmp_path / "in.npy", rows)
    arguments = ["--control-fdr", "--false-alarm-rate", 0.1]
    out = tmp_path / f"out{kind}"
    assert hourglass(named, "score", tmp_path / "in.npy", *arguments, "--out", out, "--top-features", 1) == 0
    written = pq.read_table(out) if kind == ".parquet" else pyarrow.csv.read_csv(out)
    p_values = answers.p_value(answers.score(rows))
    expected = benjamini_hochberg(p_values, 0.1)
    assert 400 < expected.sum() < 550
    np.testing.assert_array_equal(written["is_anomaly"].to_pylist(), expected)
    np.testing.assert_allclose(written["score"].to_numpy(), answers.score(rows), rtol=1e-5)
    largest = np.argmax(rows**2, axis=1)
    np.testing.assert_allclose(written["top1_observed"].to_numpy(), rows[np.arange(2500), largest], rtol=1e-6)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in.npy", out]
    said = f"{expected.sum()} of 2,500 rows are anomalies (p-value <= {p_values[expected].max():.4g}, false discovery"
    assert said in capsys.readouterr().out
    assert hourglass(named, "score", tmp_path / "in.npy", *arguments) == 0
    assert said in capsys.readouterr().out


def test_where_nothing_can_be_discovered_it_says_why(
    named: Fake, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = table.with_name("out.parquet")
    assert hourglass(named, "score", table, "--control-fdr", "--false-alarm-rate", 0.05, "--out", out) == 0
    assert not any(pq.read_table(out)["is_anomaly"].to_pylist())
    # 2,500 / ((99 + 1) * 0.05)
    assert "with 99 calibration rows, fewer than 500 anomalies" in " ".join(capsys.readouterr().out.split())


def test_a_failure_before_verdicts_are_known_leaves_nothing_behind(
    named: Fake, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with table.open("a") as stream:
        stream.write("x,1,2,3,?,id\n")
    assert hourglass(named, "score", table, "--out", table.with_name("out.csv"), "--control-fdr") == 2
    assert "line 2502" in error_of(capsys)
    assert [entry.name for entry in table.parent.iterdir()] == ["in.csv"]


def test_embed_and_denoise_name_their_columns(named: Fake, table: Path, rows: np.ndarray) -> None:
    out = table.with_name("out.parquet")
    assert hourglass(named, "embed", table, "--out", out) == 0
    assert pq.read_schema(out).names == ["embedding_0", "embedding_1"]
    assert hourglass(named, "denoise", table, "--out", out, "--id", "key") == 0
    written = pq.read_table(out)
    assert written.schema == pa.schema([("key", pa.string()), *((name, pa.float32()) for name in "abcd")])
    np.testing.assert_array_equal(np.column_stack([written[name] for name in "abcd"]), rows / 2)


@pytest.mark.parametrize(("command", "expected"), [
    ("score", answers.score), ("embed", answers.embedding), ("denoise", answers.reconstruction)
])  # fmt: skip
def test_npy_has_just_the_numbers(named: Fake, table: Path, rows: np.ndarray, command: str, expected: Any) -> None:
    out = table.with_name("out.npy")
    assert hourglass(named, command, table, "--out", out) == 0
    np.testing.assert_allclose(np.load(out), expected(rows), rtol=1e-6)


@pytest.mark.parametrize("as_images", [True, False])
def test_images_keep_their_shape_and_flat_rows_get_it(start: START, tmp_path: Path, as_images: bool) -> None:
    fake = start(row_shape=(3, 2))
    images = RNG.integers(0, 255, (50, 3, 2)).astype(np.uint8)
    np.save(tmp_path / "in.npy", images if as_images else images.reshape(50, 6))
    assert hourglass(fake, "denoise", tmp_path / "in.npy", "--out", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), images / np.float32(2))
    assert hourglass(fake, "denoise", tmp_path / "in.npy", "--out", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text().startswith('"c0","c1","c2","c3","c4","c5"\n')


def test_columns_without_names_go_by_position(start: START, tmp_path: Path, rows: np.ndarray) -> None:
    fake, out = start(columns=("a", "b", "c", "d")), tmp_path / "out.npy"
    np.savez(tmp_path / "in.npz", X=rows, y=np.zeros(len(rows)))
    assert hourglass(fake, "score", tmp_path / "in.npz", "--out", out, "--version", 3) == 0
    np.testing.assert_allclose(np.load(out), answers.score(rows), rtol=1e-6)
    labelled = tmp_path / "out.csv"
    assert hourglass(fake, "score", tmp_path / "in.npz", "--out", labelled, "--id", "y") == 0
    assert labelled.read_text().startswith('"y","score"')


def test_a_model_without_names_says_so(start: START, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hourglass(start(row_shape=(4,)), "score", table) == 2
    expected = "in.csv: 6 columns, but the model 'm', fitted without column names, takes 4 columns: leave the others"
    assert expected in error_of(capsys)


def test_a_model_without_names_takes_the_columns_left_beside_the_id(start: START, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("w,x,key,y,z\n1,2,k,3,4\n")
    assert hourglass(start(), "denoise", path, "--out", tmp_path / "out.csv", "--id", "key") == 0
    assert (tmp_path / "out.csv").read_text() == '"key","w","x","y","z"\n"k",0.5,1,1.5,2\n'


def test_score_shows_the_most_anomalous_rows(
    named: Fake, table: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hourglass(named, "score", table, "--id", "key", "--false-alarm-rate", 0.25) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if line.startswith("│")]
    worst = np.argsort(-answers.score(rows))[:10]
    assert [row[0] for row in shown] == [str(i) for i in worst]
    assert [row[1] for row in shown] == [f"{i:06d}" for i in worst]
    assert shown[0][4] == "anomaly"
    count = int((answers.score(rows) > answers.THRESHOLD).sum())
    assert f"m version 7: {count:,} of 2,500 rows are anomalies (score > 2, false-alarm rate 0.25)" in lines
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("command", "shape"), [("embed", "2,500×2"), ("denoise", "2,500×4")])
def test_embed_and_denoise_show_a_summary(
    named: Fake, table: Path, capsys: pytest.CaptureFixture[str], command: str, shape: str
) -> None:
    assert hourglass(named, command, table) == 0
    out = capsys.readouterr().out
    assert f"m version 7: {shape} numbers, embedding space 0123456789abcdef" in out
    assert out.count("\n│") == 3


def test_without_an_id_no_column_is_shown_for_it(named: Fake, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hourglass(named, "score", table) == 0
    assert re.search(r"┃ row +┃ score +┃ p-value +┃ verdict +┃", capsys.readouterr().out)


def test_ids_are_shown_as_they_are(start: START, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.csv"
    path.write_text("key,w,x,y,z\n[red]:smile:[/red],1,2,3,4\n")
    assert hourglass(start(), "score", path, "--id", "key") == 0
    assert "[red]:smile:[/red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([[1]]), None),
        (pa.array([{"a": 1}]), None),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), None),
        (pa.array([b"\xff"]), None),
        (pa.array([b"ab"]), "ab"),
    ],
    ids=["nanoseconds", "list", "struct", "map", "binary", "text as binary"],
)
def test_ids_of_any_type(
    start: START, tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: pa.Array, shown: str | None
) -> None:
    fake, path = start(), tmp_path / "in.parquet"
    pq.write_table(pa.table({"key": ids, **{name: [1.0] for name in "abcd"}}), path)
    assert hourglass(fake, "score", path, "--id", "key") == 0
    out = tmp_path / "out.parquet"
    assert hourglass(fake, "embed", path, "--id", "key", "--out", out) == 0
    assert pq.read_table(out)["key"].combine_chunks() == ids
    capsys.readouterr()
    as_csv = tmp_path / "out.csv"
    code = hourglass(fake, "score", path, "--id", "key", "--out", as_csv)
    if shown is None:
        assert code == 2
        assert "out.csv: a .csv cannot hold these columns" in error_of(capsys)
        assert sorted(tmp_path.iterdir()) == [path, out]
    else:
        assert code == 0
        assert as_csv.read_text().splitlines()[1].split(",")[0].strip('"') == shown


def test_models_is_a_table_of_a_hundred_columns(start: START, capsys: pytest.CaptureFixture[str]) -> None:
    fake = start(row_shape=(28, 28))
    assert run(["models", "--server", fake.address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(any(word in line for line in lines) for word in ("basic", "28×28", "0123456789abcdef", "2026-01-01"))


@pytest.mark.parametrize("width", [80, 50])
def test_models_are_whole_in_a_narrow_terminal(
    start: START, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(["models", "--server", start(row_shape=(28, 28)).address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert "".join(row[5] for row in rows) == "0123456789abcdef"
    assert (len(rows) == 1) == (width == 80)


def test_a_terminal_of_ascii_is_no_trouble(start: START) -> None:
    command = [sys.executable, "-m", "hourglass", "models", "--server", start(row_shape=(28, 28)).address]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "28?28" in done.stdout


def test_the_server_comes_from_the_environment(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOURGLASS_SERVER", fake.address)
    assert run(["models"]) == 0
    assert "basic" in capsys.readouterr().out


# --- errors ---


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a,b,c\n1,2,3\n", [], "no column 'd'; it has a, b, c"),
        ("a,b,c,dd\n1,2,3,4\n", [], "no column 'd': did you mean 'dd'"),
        ("1,2,3\n", [], "3 columns without names to go by, but the model 'm' takes 4 columns: leave"),
        ("a,b,c,d\n1,2,3,x\n", [], "in.csv, line 2, column 'd': 'x' is not a number"),
        ("a,b,c,d\n1,2,3,4\n1,2,3\n", [], "in.csv, line 3: 3 cells, but 4 columns"),
        ("", [], "in.csv: the file is empty"),
        ("a,b,c,d\n1,2,3,4\n", ["--id", "key"], "no column 'key'"),
        ("a,b,c,d,score\n1,2,3,4,5\n", ["--id", "score"], "has a column 'score' already"),
        ("a,b,c,d\n1,2,3,4\n", ["--out", "out.txt"], "must end in .parquet, .npy, .csv"),
        ("a,b,c,d\n1,2,3,4\n", ["--out", "in.csv"], "is the input"),
        ("a,b,c,d\n1,2,3,4\n", ["--out", "no/out.csv"], "cannot be written: No such file"),
        ("a,b,c,d\n1,2,3,4\n", ["--out", "o.npy", "--id", "a"], "an .npy holds only the numbers"),
        ("a,b,c,d\n1,2,3,4\n", ["--version", "x"], "'x' is not a whole number from 0 to 2^63 - 1 (see hourglass score"),
        ("a,b,c,d\n1,2,3,4\n", ["--version", "9" * 20], "is not a whole number from 0 to 2^63 - 1"),
        ("a,b,c,d\n1,2,3,4\n", ["--threshold", "1", "--control-fdr"], "--threshold and --control-fdr: each decides"),
        ("a,b,c,d\n1,2,3,4\n", ["--threshold", "1", "--false-alarm-rate", "0.1"], "and --false-alarm-rate: each"),
        ("a,b,c,d\n1,2,3,4\n", ["--feature-errors"], "--feature-errors: they are written to an .npy: add --out"),
        ("a,b,c,d\n1,2,3,4\n", ["--feature-errors", "--out", "o.csv"], "they are written to an .npy"),
        ("a,b,c,d\n1,2,3,4\n", ["--top-features", "-1"], "is not a whole number"),
        ("a,b,c,d\n1,2,3,4\n", ["--version", "-1"], "is not a whole number from 0 to 2^63 - 1"),
        ("a,b,c,d\n1,2,3,4\n", ["--timeout", "nan"], "above 0 and below 2^31, not nan"),
        ("a,b,c,d\n1,2,3,4\n", ["--token-file", "gone"], "No such file or directory: 'gone'"),
        ("a,b,c,d\n1,2,3,4\n", ["--cert-file", "in.csv"], "a client certificate needs both"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    named: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text(content)
    assert hourglass(named, "score", "in.csv", *arguments) == 2
    assert message in error_of(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.csv"]


def test_images_for_a_table_model_are_refused(named: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "in.npy", np.zeros((2, 3, 5)))
    assert hourglass(named, "score", tmp_path / "in.npy") == 2
    assert "rows of shape 3×5 = 15 numbers, but the model 'm' takes 4 columns" in error_of(capsys)


def test_a_bad_row_far_into_the_file_leaves_nothing_behind(
    named: Fake, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with table.open("a") as stream:
        stream.write("x,1,2,3,?,id\n")
    assert hourglass(named, "score", table, "--out", table.with_name("out.csv")) == 2
    assert "line 2502, column 'c': '?' is a missing value" in error_of(capsys)
    assert [entry.name for entry in table.parent.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure(grpc.StatusCode.INVALID_ARGUMENT, "BAD_FALSE_ALARM_RATE", "too small"), 2),
        (Failure(grpc.StatusCode.INTERNAL, "INTERNAL_ERROR", "a fault, id 12"), 1),
        (Failure(grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIAL", "no token"), 1),
    ],
)
def test_the_servers_refusal_is_one_line(
    named: Fake, table: Path, capsys: pytest.CaptureFixture[str], failure: Failure, code: int
) -> None:
    named.before = lambda request: failure if len(named.requests) == 2 else None
    assert hourglass(named, "score", table, "--out", table.with_name("out.parquet")) == code
    assert failure.message in error_of(capsys)
    assert [entry.name for entry in table.parent.iterdir()] == ["in.csv"]


def test_an_unknown_model_is_exit_2(fake: Fake, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(table), "--model", "nobody", "--server", fake.address]) == 2
    assert "no model nobody" in error_of(capsys)


def test_no_server_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--server", "127.0.0.1:1"]) == 1
    assert "no server at 127.0.0.1:1" in error_of(capsys)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_it_leaves_no_file(named: Fake, table: Path, stop: signal.Signals) -> None:
    stay, here = threading.Event(), threading.Event()

    def before(_: Any) -> None:
        if len(named.requests) > 1:
            here.set()
            stay.wait(30)

    named.before = before
    out = table.with_name("out.parquet")
    command = [sys.executable, "-m", "hourglass", "score", str(table), "--model", "m", "--server", named.address]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert here.wait(30)
    assert len(list(table.parent.glob(".out.parquet.*.tmp"))) == 1
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + stop
    assert "Traceback" not in err
    assert [entry.name for entry in table.parent.iterdir()] == ["in.csv"]
    stay.set()


# --- memory ---

PEAK = """
import json, resource, sys
from hourglass.cli import run
code = run(sys.argv[1:])
print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))
"""


def peak_mib(fake: Fake, path: Path, out: Path) -> int:
    """Of one score run in a process of its own."""
    command = ["score", str(path), "--model", "m", "--server", fake.address, "--out", str(out), "--id", "key"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command], capture_output=True, text=True, timeout=100, env={**os.environ}
    )
    code, peak = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return int(peak)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_memory_is_independent_of_the_files_size(start: START, tmp_path: Path, kind: str) -> None:
    fake = start(row_shape=(64,), columns=tuple(f"n{i}" for i in range(64)), max_rows=4096)
    fake.requests = Forgetful()
    block = RNG.standard_normal((20_000, 64)).astype(np.float32)
    columns = {"key": pa.array(range(len(block))), **{f"n{i}": pa.array(block[:, i].copy()) for i in range(64)}}

    def write(name: str, blocks: int) -> Path:
        path = tmp_path / f"{name}.{kind}"
        data = pa.table(columns)
        writer = pq.ParquetWriter if kind == "parquet" else pyarrow.csv.CSVWriter
        with writer(path, data.schema) as file:
            for _ in range(blocks):
                file.write_table(data)
        return path

    small, large = write("small", 1), write("large", 40 if kind == "parquet" else 12)
    growth = peak_mib(fake, large, tmp_path / "o.parquet") - peak_mib(fake, small, tmp_path / "s.parquet")
    size = large.stat().st_size / 2**20
    assert size > 140
    assert growth < 60, f"{growth} MiB more for a file of {size:.0f} MiB"


class Forgetful(list[Any]):
    """The server's memory is not what is measured."""

    def append(self, _: Any) -> None:
        pass
