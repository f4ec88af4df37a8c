"""A CSV of mixed columns with holes, through the real programs: fit, serve, ask by file and by Python."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hourglass import Client
from tests import tables
from tests.integration.test_end_to_end import program
from tests.processes import Serve
from training.config import FitConfig
from training.fit import fit
from training.progress import Progress

ROWS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("mixed")
    file = tables.write(folder / "t.csv", tables.mixed(1_500, 0, 0.1))
    settings: dict[str, object] = {"data": str(file), "name": "t", "id": "id", "label": "state", "epochs": 10}
    folders = {"exported": folder / "exported", "runs": folder / "runs"}
    fit(FitConfig.model_validate({**settings, **folders}), Progress(Console(file=io.StringIO())))
    server = Serve(folder / "exported").wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    """With holes, and a city that the model does not know."""
    table = tables.mixed(ROWS, 5, 0.15)
    table["city"][7] = "Atlantis"
    return table


def lines(file: Path) -> dict[str, list[str]]:
    """By column."""
    with file.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def test_files_and_columns_get_the_same_answers(server: Serve, table: dict[str, np.ndarray], tmp_path: Path) -> None:
    tables.write(tmp_path / "new.csv", table)
    common = ("new.csv", "--model", "t", "--server", server.address, "--out")
    program("hourglass", "score", *common, "scores.csv", cwd=tmp_path)
    program("hourglass", "embed", *common, "embeddings.npy", cwd=tmp_path)
    program("hourglass", "denoise", *common, "filled.csv", "--only-missing", cwd=tmp_path)
    taken = {name: table[name] for name in tables.TAKEN}
    with Client(server.address) as client:
        scores = client.score("t", taken)
        embeddings = client.embed("t", taken)
        columns = client.denoise("t", taken).columns(client.model("t"))

    scored = lines(tmp_path / "scores.csv")
    assert scored["id"] == table["id"].tolist()
    np.testing.assert_allclose(np.array(scored["score"], float), scores.score, rtol=1e-5)
    np.testing.assert_allclose(np.array(scored["p_value"], float), scores.p_value, rtol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), embeddings.values, rtol=1e-5, atol=1e-6)

    filled = lines(tmp_path / "filled.csv")
    for name in tables.TAKEN:
        missing = np.array([cell is None or cell != cell for cell in table[name].tolist()])
        assert missing.any()
        written = np.array(filled[name])
        if name in ("age", "income", "height"):
            np.testing.assert_allclose(written[~missing].astype(float), table[name][~missing], rtol=1e-5)
            np.testing.assert_allclose(written[missing].astype(float), columns[name][missing], rtol=1e-4)
        elif name == "member":
            flags = np.isin(written, ("yes", "true"))
            assert (flags | np.isin(written, ("no", "false"))).all()
            assert flags.tolist() == np.where(missing, columns[name], table[name] == "yes").tolist()
        else:
            assert written[~missing].tolist() == table[name][~missing].tolist()
            assert written[missing].tolist() == columns[name][missing].tolist()
