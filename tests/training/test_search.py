"""hourglass-train evaluate --search: its numbers, recomputed from the published files by brute force in float64."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.datasets import load_digits

from hourglass.contract import layout
from hourglass.contract.manifest import ENCODER
from training import neighbours
from training.__main__ import main
from training.evaluation import search
from training.evaluation.published import Published, open_model
from training.evaluation.rows import read
from training.evaluation.subject import Subject
from training.neighbours import alike, nearest, recall, reranked
from training.progress import Progress

DIGITS = load_digits()


def brute_force(index: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    distances = ((queries[:, None].astype(np.float64) - index[None]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("block", [1, 7, 64, 2**23])
@pytest.mark.parametrize("k", [1, 3, 30])
def test_nearest_are_those_of_brute_force_whatever_the_block(block: int, k: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    monkeypatch.setattr(neighbours, "_QUERIES", 4)
    rng = np.random.default_rng(0)
    index, queries = rng.standard_normal((30, 5)), rng.standard_normal((9, 5))
    compared: list[int] = []
    found = nearest(index, queries, k, advance=compared.append)
    assert found.tolist() == brute_force(index, queries, k).tolist()
    assert sum(compared) == len(index)


def test_rows_far_from_zero_are_told_apart():
    index = 1_000 + np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    assert nearest(index, index[:20], 5).tolist() == brute_force(index, index[:20], 5).tolist()


@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**31))
def test_bits_are_compared_by_hamming_distance(n: int, bits: int, seed: int):
    rng = np.random.default_rng(seed)
    index, queries = (rng.integers(2, size=(count, bits), dtype=np.uint8) for count in (n, 3))
    packed = np.packbits(index, axis=1), np.packbits(queries, axis=1)
    found = nearest(*packed, n, lambda rows: np.unpackbits(rows, axis=1))
    distances = np.take_along_axis((index[None] != queries[:, None]).sum(axis=2), found, axis=1)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.sort(found, axis=1).tolist() == [list(range(n))] * 3


def test_candidates_are_ranked_by_their_own_distances():
    index, queries = np.array([[0], [5], [2], [9]], dtype=np.int8), np.array([[1], [9]], dtype=np.int8)
    candidates = np.array([[1, 2, 0], [0, 1, 2]])
    assert reranked(candidates, index, queries, 2).tolist() == [[2, 0], [1, 2]]


def test_of_rows_that_are_alike_any_counts_as_found():
    index = np.array([[1.0], [1.0], [1.0], [4.0]], dtype=np.float32)
    queries = np.zeros((1, 1), dtype=np.float32)
    assert recall(np.array([[2, 1]]), np.array([[0, 1]]), index, queries) == 1
    assert recall(np.array([[3, 1]]), np.array([[0, 1]]), index, queries) == 0.5


def test_the_share_that_is_alike_is_each_querys_own():
    assert alike(np.array([[0, 1], [2, 1]]), np.array([7, 8, 8]), np.array([7, 8])).tolist() == [0.5, 1]


def measured(folder: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    report = tmp_path / "report.json"
    assert main(["evaluate", str(folder), "--search", "--json", str(report), *arguments]) == 0
    found: dict[str, Any] = json.loads(report.read_text())["search"]
    return found


def test_an_evaluation_finds_what_brute_force_finds(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(search, "_CANDIDATES", 40)
    found = measured(published, tmp_path, "--label", "label")
    order = np.random.default_rng(0).permutation(len(DIGITS.images))
    held = np.sort(order[round(0.7 * len(order)) + round(0.1 * len(order)) :])
    asked = np.sort(np.random.default_rng(0).choice(len(held), 36, replace=False))
    indexed = np.setdiff1d(np.arange(len(held)), asked)
    images, labels = DIGITS.images[held].astype(np.float32), DIGITS.target[held]
    session = onnxruntime.InferenceSession((published / ENCODER).read_bytes())
    (embeddings,) = session.run(["embedding"], {session.get_inputs()[0].name: images})
    manifest = layout.read(published.parent.parent, "digits", 1).manifest
    assert manifest.quantization
    assert {name: found[name] for name in ("indexed", "queries", "neighbours", "candidates", "label")} == {
        "indexed": 323,
        "queries": 36,
        "neighbours": 10,
        "candidates": 40,
        "label": "label",
    }
    for how, quantization in (
        ("plain", manifest.quantization.plain),
        ("normalized", manifest.quantization.normalized),
    ):
        x, rows = embeddings.astype(np.float64), images.reshape(len(images), -1)
        if how == "normalized":
            x, rows = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (x, rows))
        exact = brute_force(x[indexed], x[asked], 10)
        whole = np.clip(np.rint(x / quantization.scale), -127, 127)
        bits = x > quantization.thresholds.unpack()
        hamming = (bits[asked][:, None] != bits[indexed][None]).sum(axis=2)
        by_name = {
            "float32": exact,
            "float16": brute_force(x.astype(np.float16)[indexed], x.astype(np.float16)[asked], 10),
            "int8": brute_force(whole[indexed], whole[asked], 10),
            "binary": np.argsort(hamming, axis=1, kind="stable")[:, :10],
        }
        some = np.argsort(hamming, axis=1, kind="stable")[:, :40]
        distances = ((whole[asked][:, None] - whole[indexed][some]) ** 2).sum(axis=2)
        ranks = np.argsort(distances, axis=1, kind="stable")[:, :10]
        by_name["binary_reranked_by_int8"] = np.take_along_axis(some, ranks, axis=1)
        # Equal Hamming distances are common, and which of such rows come first is open.
        close = {"float32": 1e-9, "float16": 0.004, "int8": 0.01}
        assert list(found["recall"][how]) == list(by_name)
        for name, these in by_name.items():
            shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(these, exact, strict=True)])
            assert found["recall"][how][name] == pytest.approx(shared, abs=close.get(name, 0.08)), (how, name)
            alike = (labels[indexed][these] == labels[asked][:, None]).mean()
            assert found["label_precision"][how][name] == pytest.approx(alike, abs=close.get(name, 0.08)), (how, name)
        alike = (labels[indexed][brute_force(rows[indexed], rows[asked], 10)] == labels[asked][:, None]).mean()
        assert found["label_precision"][how]["row"] == pytest.approx(alike, abs=1e-9)
    printed = capsys.readouterr()
    assert re.search(r"the row, in scaled units +│ +256 │", printed.out)
    assert "323 rows are indexed, 36 others ask for their nearest 10" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 100
    assert "measuring search" in printed.err


@pytest.mark.parametrize("certain", [2, 1e9])
def test_embeddings_that_find_less_than_rows_are_said_to_where_chance_does_not_explain_it(
    certain: float,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    noise = np.random.default_rng(0)
    monkeypatch.setattr(search, "_CERTAIN", certain)
    subject = Subject.of(open_model(published), read("digits", open_model(published).manifest, "label"))
    monkeypatch.setattr(Published, "embed", lambda _, rows: noise.standard_normal((len(rows), 8), dtype=np.float32))
    section = search.measure(subject, Progress(Console(file=io.StringIO())))
    said = "Neighbours by the row have its label more often" in " ".join(section.sentences)
    assert said == (certain == 2)


def test_without_labels_precision_is_left_out_and_said_to_be(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = measured(published, tmp_path)
    assert "label_precision" not in found
    printed = capsys.readouterr().out
    assert "No label to compare neighbours by: --label COLUMN." in printed
    assert "the row" not in printed.partition("Search")[2].partition("rows are indexed")[0]


def test_a_model_without_calibrated_encodings_is_measured_in_floats(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "exported" / "digits" / "1"
    shutil.copytree(published, folder)
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    (folder / layout.MANIFEST).write_text(json.dumps({**manifest, "quantization": None}))
    found = measured(folder, tmp_path)
    assert found["candidates"] is None
    assert set(found["recall"]["plain"]) == {"float32", "float16"}
    assert "No INT8 and BINARY: the model has none." in capsys.readouterr().out


@pytest.mark.parametrize(("rows", "enough"), [(10, False), (11, False), (12, True)])
def test_as_many_rows_as_neighbours_must_be_indexed(
    rows: int, enough: bool, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "few.npy"
    np.save(file, DIGITS.images[:rows])
    assert main(["evaluate", str(published), "--data", str(file), "--search"]) == (0 if enough else 2)
    assert enough or "at least 12 rows are needed" in capsys.readouterr().err
