"""Drift through the real server: the gauges, the RPC, the log line and the program."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hourglass import Client, HourglassError
from hourglass.cli import run
from hourglass.contract import layout
from hourglass.contract.schema import Column
from tests import artefacts
from tests.processes import Serve

COLUMNS = [f"sensor_{i}" for i in range(20)]
KINDS = [Column(name="a"), Column(name="kind", type="categorical", categories=("x", "y", "z"))]
RNG = np.random.default_rng(0)


def without_sketch(folder: Path) -> None:
    path = folder / layout.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "drift": None}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    artefacts.publish(root, "plant", artefacts.Linear.random(20, 4, clip=3.0), columns=COLUMNS)
    artefacts.publish(root, "still", artefacts.Linear.random(20, 4), columns=COLUMNS)
    artefacts.publish(root, "old", damage=without_sketch)
    artefacts.publish(root, "kinds", artefacts.Linear.random(2, 1), columns=KINDS)
    return root


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Serve]:
    server = Serve(exported).wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Serve) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def rows(count: int = 2000) -> np.ndarray:
    return RNG.standard_normal((count, 20)).astype(np.float32)


def test_traffic_that_drifts_is_seen_everywhere(server: Serve, client: Client) -> None:
    scored = client.score("plant", rows())
    now = client.drift("plant").now
    assert now is not None
    assert not now
    assert now.scored == now.rows > 200
    assert now.mean_p_value == pytest.approx(scored.p_value.mean(), abs=0.1)
    assert server.metric("hourglass_drift_features", model="plant") == 0
    assert server.metric("hourglass_drift_rows", model="plant", version="1") == now.rows

    moved = rows()
    moved[:, 3] += 1
    moved[:, 5] = 100
    scored = client.score("plant", moved)
    answer = client.drift("plant", 1)
    assert (answer.model.name, answer.model.version) == ("plant", 1)
    now = answer.now
    assert now is not None
    assert now
    names = answer.sketch.names(client.model("plant").columns, [20])
    assert [names[i] for i in now.worst(2)] == ["sensor_5", "sensor_3"]
    assert np.flatnonzero(now.drifted).tolist() == [3, 5]
    assert server.metric("hourglass_drift_features", model="plant") == 2
    assert server.metric("hourglass_drift_feature_ks", feature="sensor_3") == pytest.approx(now.ks[3], abs=1e-6)
    assert server.metric("hourglass_drift_feature_psi", feature="sensor_5") == pytest.approx(now.psi[5], rel=1e-5)
    for gauge in ("score_ks", "score_psi", "mean_p_value"):
        assert server.metric(f"hourglass_drift_{gauge}", model="plant") == pytest.approx(getattr(now, gauge))
    assert server.metric("hourglass_drift_ks_limit", model="plant") == pytest.approx(now.limit)
    assert server.metric("hourglass_drift_score_ks_limit", model="plant") == pytest.approx(now.score_limit)
    assert server.metric("hourglass_drift_clipped_ratio", model="plant") == pytest.approx(1 / 20, abs=0.01)
    assert server.metric("hourglass_drift_missing_ratio", model="plant") == 0
    line = server.wait_logged("traffic drifts")
    assert (line["level"], line["model"], line["version"], line["worst"][0]) == ("warning", "plant", 1, "sensor_5")


def test_embed_and_denoise_count_but_have_no_score(server: Serve, client: Client) -> None:
    client.embed("still", rows(500))
    client.denoise("still", rows(500))
    now = client.drift("still").now
    assert now is not None
    assert now.rows > 100
    assert now.scored == 0
    assert np.isnan(now.score_ks)
    samples = {
        sample.name
        for family in text_string_to_metric_families(server.metrics())
        for sample in family.samples
        if sample.labels.get("model") == "still" and sample.name.startswith("hourglass_drift")
    }
    assert "hourglass_drift_ks_limit" in samples
    assert not samples & {"hourglass_drift_score_ks", "hourglass_drift_mean_p_value", "hourglass_drift_unknown_ratio"}


def test_series_of_features_are_few(server: Serve, client: Client) -> None:
    client.score("still", rows(600))
    series = [line for line in server.metrics().splitlines() if line.startswith("hourglass_drift_feature_ks{")]
    assert len([line for line in series if 'model="still"' in line]) == 10


def test_a_version_without_a_sketch_says_so(client: Client) -> None:
    client.score("old", np.zeros((3, 4)))
    with pytest.raises(HourglassError, match="version 1 of 'old'") as refused:
        client.drift("old")
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SKETCH")
    with pytest.raises(HourglassError) as unknown:
        client.drift("nobody")
    assert unknown.value.reason == "MODEL_NOT_FOUND"


def test_it_can_be_turned_off(exported: Path, serve: Callable[..., Serve], capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(exported, "--drift-window-rows", "0")
    with Client(server.address) as client:
        client.score("plant", rows())
        answer = client.drift("plant")
    assert answer.now is None
    assert answer.sketch.rows == 199
    assert "hourglass_drift_rows{" not in server.metrics()
    assert run(["drift", "--model", "plant", "--server", server.address]) == 2
    assert "give a FILE" in capsys.readouterr().err


def write(path: Path, values: np.ndarray) -> Path:
    ids = [f"{i:05d}" for i in range(len(values))]
    pa.csv.write_csv(pa.table({"id": ids, **dict(zip(COLUMNS, values.T, strict=True))}), path)
    return path


def drift(server: Serve, *arguments: object) -> int:
    return run(["drift", *map(str, arguments), "--server", server.address])


def test_a_file_that_does_not_drift(server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "same.csv", rows(5000))
    assert drift(server, file, "--model", "plant", "--fail") == 0
    out = capsys.readouterr().out
    assert "plant version 1: 5,000 rows of the file do not drift: nothing beyond the limit" in " ".join(out.split())
    assert "drifts" not in out
    headers = next(line for line in out.splitlines() if "KS" in line)
    assert [header.strip() for header in headers.strip("┃").split("┃")] == ["feature", "KS", "PSI"]


def test_a_file_that_drifts_is_shown_with_its_worst_columns(
    server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = rows(5000)
    values[:, 11] += 1.5
    values[:, 2] *= 3
    file = write(tmp_path / "moved.csv", values)
    assert drift(server, file, "--model", "plant") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    named = re.findall(r"(sensor_\d+) .*?(drifts)?\s*│?\n", out)
    assert [name for name, _ in named[:2]] == ["sensor_11", "sensor_2"]
    assert [bool(mark) for _, mark in named] == [True] * 2 + [False] * 8
    text = " ".join(out.split())
    assert "5,000 rows of the file drift: 2 of 20 features and the score beyond the limit" in text
    assert "mean p-value 0." in text
    assert drift(server, file, "--model", "plant", "--fail") == 1


def test_what_is_shown_is_what_a_client_works_out_from_the_sketch(
    server: Serve, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = rows(700)
    file = tmp_path / "rows.npy"
    np.save(file, values)
    answer, scores = client.drift("still"), client.score("still", values)
    scored = answer.sketch.count_scores(scores.score, scores.p_value, scores.clipped)
    expected = answer.sketch.compare(answer.sketch.count(values), scored, len(values))
    assert drift(server, file, "--model", "still") == 0
    out = capsys.readouterr().out
    shown = re.findall(r"(sensor_\d+) +│ ([\d.]+) │ ([\d.]+)", out)
    worst = expected.worst(10)
    assert shown == [(COLUMNS[i], f"{expected.ks[i]:.3f}", f"{expected.psi[i]:.3f}") for i in worst]
    assert f"score: KS {expected.score_ks:.3f}" in out
    assert f"mean p-value {scores.p_value.mean():.3f}" in " ".join(out.split())


def test_without_a_file_it_is_the_servers_traffic(
    exported: Path, serve: Callable[..., Serve], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(exported)
    assert drift(server, "--model", "plant") == 0
    assert "no rows to compare yet" in capsys.readouterr().out
    with Client(server.address) as client:
        client.embed("still", rows())
        client.score("plant", rows() + 2)
    assert drift(server, "--model", "still") == 0
    assert "score: none of these rows was scored, so it is not compared" in capsys.readouterr().out
    assert drift(server, "--model", "plant") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"plant version 1: \d+ of the rows that came to the server last drift: 20 of 20 features", text)
    assert drift(server, "--model", "plant", "--fail") == 1


def test_unknown_categories_are_shown(server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = RNG.choice(["x", "y", "new"], 1000)
    file = tmp_path / "kinds.csv"
    pa.csv.write_csv(pa.table({"a": RNG.standard_normal(1000), "kind": kinds}), file)
    assert drift(server, file, "--model", "kinds") == 0
    out = capsys.readouterr().out
    (kind,) = (line for line in out.splitlines() if "kind" in line and "drifts" in line)
    assert f"{(kinds == 'new').mean():.1%}" in kind
    first, second = (line.strip("┃").split("┃") for line in out.splitlines() if "┃" in line)
    headers = [" ".join(f"{above} {below}".split()) for above, below in zip(first, second, strict=True)]
    assert headers == ["feature", "KS", "PSI", "unknown", "unknown before", "verdict"]
    assert max(map(len, out.splitlines())) <= 100
