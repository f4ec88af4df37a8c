"""A series fitted as windows, served by a real server, and scored timestamp by timestamp."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from rich.console import Console

from hourglass import Client, HourglassError
from hourglass.cli import run
from hourglass.contract import layout
from hourglass.contract.manifest import MODEL, Window
from tests.processes import Serve
from training import data
from training.config import FitConfig
from training.errors import DataError
from training.evaluation import evaluate
from training.fit import fit
from training.progress import Progress
from training.run import Run

LENGTH, STRIDE = 16, 4
BROKEN = slice(150, 180)
GAP = 300  # the row after it


def write(file: Path, rows: int, *, seed: int, broken: slice = slice(0), gap: int | None = None) -> Path:
    random, t = np.random.default_rng(seed), np.arange(rows)
    flow, heat = np.sin(t / 5), 20 + 3 * np.cos(t / 5)
    flow[broken] = 0.2  # each value is an ordinary one: only in time is it odd
    values = np.stack([flow, heat], axis=1) + 0.05 * random.normal(size=(rows, 2))
    begin = datetime(2024, 1, 1)
    times = [begin + timedelta(minutes=i, hours=3 * (gap is not None and i >= gap)) for i in range(rows)]
    states = np.full(rows, "ok", dtype=object)
    states[broken] = "stuck"
    lines = [f"{time};{a:.5f};{b:.5f};{state}" for time, (a, b), state in zip(times, values, states, strict=True)]
    file.write_text("\n".join(["when;flow;heat;state", *lines]) + "\n")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With runs/, exported/pump/1 and exported/pump-conv1d/1, and the files they were fitted on and are asked about."""
    folder = tmp_path_factory.mktemp("series")
    write(folder / "train.csv", 900, seed=0, gap=500)
    write(folder / "test.csv", 400, seed=1, broken=BROKEN, gap=GAP)
    for name, settings in {
        "pump": {"epochs": 20},
        "pump-conv1d": {"network": "conv1d", "hidden": (8,), "epochs": 3},
    }.items():
        config = FitConfig.model_validate(
            {"data": str(folder / "train.csv"), "name": name, "window": LENGTH, "time": "when", "label": "state"}
            | {"false_alarm_rate": 0.02, "exported": folder / "exported", "runs": folder / "runs", **settings}
        )
        fit(config, Progress(Console(file=io.StringIO())))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serve]:
    server = Serve(folder / "exported").wait_ready()
    yield server
    server.kill()


def given(folder: Path) -> pa.Table:
    return csv.read_csv(folder / "test.csv", parse_options=csv.ParseOptions(delimiter=";"))


def ask(server: Serve, folder: Path, command: str, file: str, *options: str, out: str | None = None) -> int:
    """The exit code of the program."""
    written = [] if out is None else ["--out", str(folder / out)]
    return run([command, str(folder / file), "--model", "pump", "--server", server.address, *options, *written])


def test_the_manifest_says_how_a_series_is_cut(folder: Path) -> None:
    artefact = layout.read(folder / "exported", "pump", 1, (MODEL,))
    manifest = artefact.manifest
    assert manifest.window == Window(length=LENGTH, stride=STRIDE, step_seconds=60.0)
    assert (manifest.row_shape, manifest.aside.time) == ([LENGTH, 2], "when")
    assert [column.name for column in manifest.columns or ()] == ["flow", "heat"]
    assert manifest.scaling.shift.shape == [2]
    assert manifest.provenance.rows["train"] > 500
    assert onnxruntime.InferenceSession(artefact.files[MODEL]).get_inputs()[0].shape[1:] == [LENGTH, 2]


def test_splits_are_blocks_in_time(folder: Path) -> None:
    (fitted,) = (folder / "runs" / "pump").iterdir()
    dataset = data.load(Run.open(fitted).config)
    assert dataset.starts is not None
    assert not any(start < 500 < start + LENGTH for start in dataset.starts)
    assert dataset.findings == ("there is 1 gap of more than 2 min, the longest of 3.02 h: no window spans one",)
    splits = data.split(dataset, 0)
    series = dataset.rows[:, 0, 0]
    first = [
        int((series == part[0, 0, 0]).nonzero()[0]) for part in (splits.train, splits.early_stop, splits.calibration)
    ]
    assert first == sorted(first)


def test_timestamps_of_a_break_are_found(server: Serve, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(server, folder, "score", "test.csv", out="scores.csv") == 0
    said = capsys.readouterr()
    assert "timestamps are anomalies" in said.out
    assert ask(server, folder, "score", "test.csv") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "score is the mean of its windows', and it is an anomaly when at least half of them are" in shown
    assert "there is 1 gap of more than 2 min, the longest of 3.02 h" in said.err
    table = csv.read_csv(folder / "scores.csv")
    assert table.column_names == ["when", "score", "p_value", "is_anomaly", "windows"]
    assert table["when"].to_pylist() == given(folder)["when"].to_pylist()
    scores = table["score"].to_numpy()
    usual = np.concatenate([scores[: BROKEN.start - LENGTH], scores[BROKEN.stop + LENGTH :]])
    inside = slice(BROKEN.start + STRIDE, BROKEN.stop - STRIDE)
    assert scores[inside].min() > usual.max()
    called = table["is_anomaly"].to_numpy(zero_copy_only=False)
    assert called[inside].all()
    assert called[: BROKEN.start - LENGTH].mean() < 0.1
    windows = table["windows"].to_numpy()
    assert windows[LENGTH : GAP - LENGTH].tolist() == [LENGTH // STRIDE] * (GAP - 2 * LENGTH)
    assert windows[0] == windows[GAP] == windows[GAP - 1] == 1


def test_one_window_is_answered(server: Serve, folder: Path) -> None:
    pq.write_table(given(folder).slice(0, LENGTH), folder / "one.parquet")
    for command in ("score", "denoise"):
        assert ask(server, folder, command, "one.parquet", out="answer.parquet") == 0
        answer = pq.read_table(folder / "answer.parquet")
        assert answer["when"].to_pylist() == given(folder)["when"].to_pylist()[:LENGTH]


def test_per_timestamp_is_what_the_windows_say(server: Serve, folder: Path) -> None:
    ask(server, folder, "score", "test.csv", "--per", "window", "--top-features", "1", out="windows.parquet")
    ask(server, folder, "score", "test.csv", out="rows.parquet")
    windows, rows = pq.read_table(folder / "windows.parquet"), pq.read_table(folder / "rows.parquet")
    first, last = (windows[name].to_numpy() for name in ("first_row", "last_row"))
    assert set(last - first) == {LENGTH - 1}
    assert not ((first < GAP) & (last >= GAP)).any()
    assert windows["first_when"][0].as_py() == "2024-01-01 00:00:00"
    assert pc.all(pc.match_substring_regex(windows["top1_feature"], r"^(flow|heat)\[\d+\]$")).as_py()
    for row in (0, 40, BROKEN.start, GAP, 399):
        covering = (first <= row) & (row <= last)
        assert rows["windows"][row].as_py() == covering.sum()
        assert rows["score"][row].as_py() == pytest.approx(windows["score"].to_numpy()[covering].mean(), rel=1e-5)
        called = windows["is_anomaly"].to_numpy(zero_copy_only=False)[covering]
        assert rows["is_anomaly"][row].as_py() == (called.mean() >= 0.5)


def test_windows_are_shown_from_when_to_when(server: Serve, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(server, folder, "score", "test.csv", "--per", "window", out="windows.parquet")
    windows = pq.read_table(folder / "windows.parquet")
    worst = int(np.argmax(windows["score"].to_numpy()))
    ends = [str(windows[name][worst].as_py()) for name in ("first_when", "last_when")]
    capsys.readouterr()
    for command in (("score", "test.csv", "--per", "window"), ("embed", "test.csv")):
        assert ask(server, folder, *command) == 0
        shown = capsys.readouterr().out
        assert re.search(r"first when +│ last when ", shown.replace("┃", "│"))
        assert f"the {'first' if command[0] == 'embed' else 'most anomalous'} windows" in shown
        if command[0] == "score":
            assert re.search(" +│ ".join(ends), shown)
            assert f"of {len(windows)} windows are anomalies" in shown


def test_denoise_answers_timestamps_and_embed_windows(server: Serve, folder: Path) -> None:
    ask(server, folder, "denoise", "test.csv", out="repaired.csv")
    repaired = csv.read_csv(folder / "repaired.csv")
    assert repaired.column_names == ["when", "flow", "heat"]
    before = given(folder)
    usual = slice(LENGTH, BROKEN.start - LENGTH)
    assert np.abs(repaired["heat"].to_numpy() - before["heat"].to_numpy())[usual].mean() < 0.2
    ask(server, folder, "embed", "test.csv", out="embeddings.npy")
    assert np.load(folder / "embeddings.npy").shape[0] == len(range(0, GAP - LENGTH + 1, STRIDE)) + 22
    ask(server, folder, "embed", "test.csv", "--normalize", out="embeddings.parquet")
    metadata = pq.read_schema(folder / "embeddings.parquet").metadata
    with Client(server.address) as client:
        assert metadata[b"hourglass.embedding_space_id"].decode() == client.model("pump").model.embedding_space_id
    assert metadata[b"hourglass.normalized"] == b"true"


def test_windows_as_arrays_are_answered_too(server: Serve, folder: Path) -> None:
    with Client(server.address) as client:
        for name in ("pump", "pump-conv1d"):
            model = client.model(name)
            assert model.window == Window(length=LENGTH, stride=STRIDE, step_seconds=60.0)
            assert client.score(name, np.zeros((3, LENGTH, 2))).score.shape == (3,)
        for columns in ({"flow": [1.0], "heat": [2.0]}, {"flow": np.zeros((3, LENGTH))}):
            with pytest.raises(HourglassError, match=r"\[n, 16, 2\]: windows of the channels flow, heat$") as refused:
                client.score("pump", columns)
            assert refused.value.reason == "NO_SCHEMA"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "short.csv"), "short.csv: 10 rows are less than one window: the model takes 16 rows"),
        (("score", "test.csv", "--control-fdr"), "--control-fdr: windows that overlap are not independent"),
        (("score", "test.csv", "--top-features", "2"), "add --per window"),
        (
            ("score", "back.csv"),
            "back.csv, line 4, column 'when': '2023-01-01 00:00:00' is earlier than the row before",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    server: Serve, folder: Path, arguments: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "short.csv", 10, seed=0)
    lines = write(folder / "back.csv", 40, seed=0).read_text().splitlines()
    lines[3] = "2023-01-01 00:00:00" + lines[3][19:]
    (folder / "back.csv").write_text("\n".join(lines) + "\n")
    assert ask(server, folder, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 400}, "are too few for three splits|are less than a window"),
        ({"window": 16, "ignore": ("state", "when"), "time": None, "label": None}, None),
        ({"window": 16, "label": None}, "'state' is categorical: --ignore state"),
        ({"stride": 4}, "--stride needs --window"),
    ],
)
def test_what_cannot_be_learned_is_said(folder: Path, settings: dict[str, object], message: str | None) -> None:
    write(folder / "states.csv", 900, seed=0, broken=slice(100, 400))
    config = FitConfig.model_validate(
        {"data": str(folder / "states.csv"), "name": "x", "time": "when", "label": "state", **settings}
    )
    if message is None:
        dataset = data.load(config)
        assert dataset.window == Window(length=16, stride=4)
        return
    with pytest.raises(DataError, match=message):
        data.split(data.load(config), 0)


def test_windows_with_an_excluded_row_are_excluded(folder: Path) -> None:
    write(folder / "states.csv", 900, seed=0, broken=slice(100, 400))
    config = FitConfig.model_validate(
        {"data": str(folder / "states.csv"), "name": "x", "time": "when", "window": LENGTH}
        | {"label": "state", "exclude_label": ("stuck",)}
    )
    dataset = data.load(config)
    assert dataset.starts is not None
    assert dataset.excluded is not None
    assert not ((dataset.starts + LENGTH > 100) & (dataset.starts < 400)).any()
    assert dataset.excluded.total == 300 + LENGTH - 1
    assert len(dataset.starts) == len(dataset.rows)


def test_evaluate_tells_windows_and_timestamps(folder: Path, tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    evaluate(
        folder / "exported" / "pump",
        source=str(folder / "test.csv"),
        label="state",
        anomalous=(),
        run=None,
        samples=1,
        neighbours=False,
        report=tmp_path / "numbers.json",
        console=quiet,
        progress=Progress(quiet),
    )
    found = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))["anomalies"]
    # Every window with a broken row, of those that begin at any row.
    assert found["rows"]["anomalous"] == BROKEN.stop - BROKEN.start + LENGTH - 1
    assert found["methods"]["model"]["auroc"] > 0.95
    assert found["timestamps"]["auprc"] > 0.9
