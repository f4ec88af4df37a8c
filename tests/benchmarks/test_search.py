"""The search benchmark: what its page says of numbers that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import search_page
from benchmarks.search_index import ALONE, FUNCTION, LONG, PROGRAM, Killed
from benchmarks.search_page import CANDIDATES, EMBEDDING, PCA, RAW, Measured, reranked


def measured(embedding: float = 0.83, int8: float = 0.98, rate: float = 70.0, missing: int = 0) -> Measured:
    recalls = {"float16": 1.0, "int8": int8, "binary": 0.5, **{reranked(count): 0.95 for count in CANDIDATES}}
    labels = {RAW: {"plain": 0.80, "normalised": 0.81}, PCA: {"plain": 0.8, "normalised": 0.8}}
    labels[EMBEDDING] = {"plain": embedding, "normalised": 0.7}
    rates = {ALONE: [100.0, 90.0, 110.0], FUNCTION: [rate, 1.0, 1000.0], PROGRAM: [1.0, 1.0, 1.0], LONG: [80.0] * 3}
    recalls_of = {"plain": recalls, "normalised": {**recalls, "int8": 0.99}}
    return Measured(labels, recalls_of, rates, [Killed(32_768, missing, 0, 0)])


@pytest.fixture(autouse=True)
def choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "choice.json"
    file.write_text(json.dumps({"--variant basic": {"plain": 0.5, "normalised": 0.6}}))
    monkeypatch.setattr(search_page, "RESULTS", file)


def test_the_page_has_every_bar_from_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr(search_page, "PAGE", page)
    tables = search_page.tables(measured())
    assert not any(table.missed for table in tables)
    search_page.write(tables)
    text = page.read_text()
    for line in (
        "| label precision@10, embeddings / raw pixels | 0.8300 / 0.8100 | ≥ 1 | reached |",
        "| recall@10, int8 | 0.9800 | ≥ 0.97 | reached |",
        "| recall@10, binary, 500 re-ranked | 0.9500 | ≥ 0.9 | reached |",
        "| rows/s, file to LanceDB / Embed alone | 0.70 | ≥ 0.6 | reached |",
        "| Embed RPC alone | 100 | 90 to 110 | 1.00 |",
        "| `--variant basic` | 0.5000 | 0.6000 |",
    ):
        assert line in text


@pytest.mark.parametrize("short", [{"embedding": 0.8}, {"int8": 0.96}, {"rate": 59.0}, {"missing": 1}])
def test_a_bar_that_is_missed_is_said(short: dict[str, float]):
    assert search_page.tables(measured(**short))[0].missed
