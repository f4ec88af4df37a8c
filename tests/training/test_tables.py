"""A mixed table with holes, from the file to the published model and back: one small fit, looked at from all sides."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from hourglass.contract import layout
from hourglass.contract.manifest import GRAPHS, MODEL, RECONSTRUCTION, SCORE
from tests import tables
from training import checkpoint, data, reservoir
from training.__main__ import main
from training.config import FitConfig
from training.errors import DataError
from training.evaluation.published import Published, open_model
from training.evaluation.rows import read
from training.fit import build, export_run, fit, resume
from training.progress import Progress
from training.reservoir import Reservoir
from training.run import Run
from training.trainer import EpochRecord

Config = Callable[..., FitConfig]
HOLES = 0.15
AGE, INCOME, HEIGHT, KIND, CITY, MEMBER = range(6)


class Fitted(NamedTuple):
    file: Path
    folder: Path
    run: Run
    model: Published

    def encoded(self, n: int, seed: int) -> np.ndarray:
        """Fresh rows without holes."""
        schema = self.model.manifest.row_schema
        assert schema
        return schema.encode(tables.mixed(n, seed), takes_missing=False).rows


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("tables")
    rows = tables.mixed(1_500, 0, HOLES)
    rows["income"][np.random.default_rng(1).random(1_500) < 0.3] = np.nan  # a sensor that is often off
    rows["state"][::50] = "odd"
    file = tables.write(folder / "t.csv", rows)
    settings: dict[str, object] = {"data": str(file), "name": "t", "id": "id", "label": "state"}
    settings |= {"exclude_label": "odd", "epochs": 40, "exported": folder / "exported", "runs": folder / "runs"}
    published = fit(FitConfig.model_validate(settings), Progress(Console(file=io.StringIO())))
    (run,) = (folder / "runs" / "t").iterdir()
    return Fitted(file, published, Run.open(run), open_model(published))


def test_a_column_that_is_often_missing_is_learned_and_filled_in(fitted: Fitted):
    """Income follows from age, as kind does; a city from nothing."""
    rows = fitted.encoded(1_000, 5)
    holes = rows.copy()
    holes[:, [INCOME, KIND]] = np.nan
    filled = fitted.model.reconstruct(holes)
    error = np.sqrt(np.square(filled[:, INCOME] - rows[:, INCOME]).mean())
    assert error < 0.5 * rows[:, INCOME].std()
    assert (filled[:, KIND] == rows[:, KIND]).mean() > 0.75  # the commonest is half of them


def test_every_column_comes_back(fitted: Fitted):
    rows = fitted.encoded(500, 6)
    repeated = fitted.model.reconstruct(rows)
    for column in (AGE, INCOME, HEIGHT):
        assert np.corrcoef(rows[:, column], repeated[:, column])[0, 1] > 0.9
    for column in (KIND, CITY, MEMBER):
        assert (rows[:, column] == repeated[:, column]).mean() > 0.9


def test_golden_rows_have_holes_and_are_answered_alike_in_any_batch(fitted: Fitted):
    golden = fitted.model.manifest.golden
    rows = golden.input.unpack()
    assert np.isnan(rows).any(axis=1).any()
    assert not np.isnan(rows).all(axis=1).any()
    for size in (1, 2, 7, 64):
        batch = rows[np.arange(size) % len(rows)]
        for name, answer in fitted.model.graphs[MODEL].run(batch).items():
            expected = golden.outputs[name].unpack()[np.arange(size) % len(rows)]
            tolerance = golden.tolerance["float32"][name]
            np.testing.assert_allclose(answer, expected, rtol=tolerance.rtol, atol=tolerance.atol, err_msg=name)


def test_an_export_of_the_same_run_is_byte_identical(fitted: Fitted, tmp_path: Path, quiet: Progress):
    again = export_run(fitted.run, None, tmp_path / "exported", quiet)
    for file in GRAPHS:
        assert (again / file).read_bytes() == (fitted.folder / file).read_bytes(), file
    assert open_model(again).manifest.golden == fitted.model.manifest.golden


def test_a_run_that_stopped_goes_on_to_the_same_bits(
    fitted: Fitted, config: Config, quiet: Progress, monkeypatch: pytest.MonkeyPatch
):
    """Killed after its second epoch; the other never stopped. Exports of the same weights have the same bytes."""
    settings = {"data": str(fitted.file), "name": "r", "ignore": "id,state", "epochs": 4}
    monkeypatch.setattr("training.fit._publish", lambda run, *_: run.folder)
    whole = fit(config(**settings), quiet)
    monkeypatch.setattr("training.fit.CHECKPOINT_SECONDS", 0.0)
    record = Run.record

    def killed(run: Run, epoch: EpochRecord) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt
        record(run, epoch)

    monkeypatch.setattr(Run, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(config(**settings), quiet)
    monkeypatch.setattr(Run, "record", record)
    stopped = Run.open(max((config().runs / "r").iterdir()))
    assert len(stopped.log.read_text().splitlines()) == 2
    assert resume(stopped, quiet) == stopped.folder != whole
    one, other = (weights(Run.open(folder), fitted) for folder in (whole, stopped.folder))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def weights(run: Run, fitted: Fitted) -> dict[str, torch.Tensor]:
    model = build(run.config, (len(tables.TAKEN),), fitted.model.manifest.row_schema)
    checkpoint.load_best(run.checkpoint, model)
    return model.state_dict()


@pytest.mark.parametrize("variant", ["basic", "vae"])
def test_a_variant_that_does_not_learn_holes_refuses_them(
    fitted: Fitted, variant: str, config: Config, quiet: Progress
):
    lines = fitted.file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if ",," in text or text.startswith("r0,,"))
    name = lines[0].split(",")[next(empty(lines[line - 1]))]
    with pytest.raises(DataError, match=rf"t\.csv, line {line}, column '{name}': the cell is empty.*--variant denois"):
        fit(config(data=str(fitted.file), name="b", ignore="id,state", variant=variant), quiet)


def empty(line: str) -> Iterator[int]:
    """Where a line's cells are empty."""
    (cells,) = csv.reader([line])
    return (index for index, cell in enumerate(cells) if not cell)


@pytest.mark.parametrize("variant", ["basic", "vae"])
def test_other_variants_learn_categories_without_holes(
    variant: str, config: Config, tmp_path: Path, quiet: Progress, capsys: pytest.CaptureFixture[str]
):
    file = tables.write(tmp_path / "whole.csv", tables.mixed(300, 2))
    folder = fit(config(data=str(file), name="b", ignore="id,state", variant=variant, epochs=2), quiet)
    assert not open_model(folder).manifest.takes_missing
    assert "kind = worker" in (folder / "report.html").read_text()
    (run,) = (config().runs / "b").iterdir()
    assert main(["evaluate", str(folder), "--data", str(file), "--run", str(run), "--samples", "5"]) == 0
    printed = capsys.readouterr().out
    assert ("-log p(x)" in printed) == (variant == "vae")
    holes = tables.write(tmp_path / "holes.csv", tables.mixed(300, 3, 0.1))
    for command in ("evaluate", "calibrate"):
        assert main([command, str(folder), "--data", str(holes)]) == 2
        assert "the cell is empty: fill it in or remove the row" in capsys.readouterr().err.splitlines()[-1]


def test_evaluate_tells_numbers_from_categories(fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = tmp_path / "e.json"
    arguments = ["--label", "state", "--run", str(fitted.run.folder), "--json", str(report)]
    assert main(["evaluate", str(fitted.folder), "--data", str(fitted.file), *arguments]) == 0, capsys.readouterr().err
    printed, found = capsys.readouterr().out, json.loads(report.read_text())
    assert found["data"]["fitted_rows"] == "left out"
    metrics = fitted.model.manifest.provenance.metrics
    mse = "reconstruction_mse_per_feature"
    assert found["reconstruction"][mse] == pytest.approx(metrics[mse], rel=1e-5)
    assert set(found["reconstruction"]["rmse_in_input_units"]) == {"age", "income", "height"}
    held = read(str(fitted.file), fitted.model.manifest, None)
    rows = held.rows[~held.excluded]
    repeated = fitted.model.graphs[MODEL].run_all(rows)[RECONSTRUCTION]
    there = ~np.isnan(rows)
    for column, name in ((KIND, "kind"), (CITY, "city"), (MEMBER, "member")):
        wrong = (rows[:, column] != repeated[:, column])[there[:, column]].mean()
        assert found["reconstruction"]["wrong"][name]["reconstruction"] == pytest.approx(wrong)
    for column, name in ((AGE, "age"), (INCOME, "income")):
        squared = np.square(rows[:, column].astype(float) - repeated[:, column])[there[:, column]]
        assert found["reconstruction"]["rmse_in_input_units"][name] == pytest.approx(np.sqrt(squared.mean()), rel=1e-5)
    assert list(found["denoising"]) == ["masking"]
    for level in found["denoising"]["masking"].values():
        assert level["gain_db"] > 1
        assert level["denoised_wrong"] < level["damaged_wrong"]
    assert "left out, as" in " ".join(printed.split())
    assert found["compression"]["row_bytes"] == 3 * 4 + 3
    assert found["compression"]["float32"]["embedding_wrong"] < 0.2
    assert found["classification"]["classes"] == 2
    assert set(found["anomalies"]["methods"]) == {"model", "pca", "knn", "isolation_forest"}


def test_unknown_categories_are_read_and_a_typo_is_not(fitted: Fitted, tmp_path: Path):
    table = tables.mixed(40, 8, 0.1)
    table["city"][3], table["city"][4] = "Atlantis", None
    rows = read(str(tables.write(tmp_path / "new.csv", table)), fitted.model.manifest, None).rows
    assert rows[3, CITY] == 0
    assert np.isnan(rows[4, CITY])
    table["age"] = table["age"].astype(object)
    table["age"][7] = "4o"
    with pytest.raises(DataError, match=r"new\.csv, line 9, column 'age': '4o' is not a number"):
        read(str(tables.write(tmp_path / "new.csv", table)), fitted.model.manifest, None)


def test_calibrate_takes_new_rows_with_holes(fitted: Fitted, tmp_path: Path):
    shutil.copytree(fitted.folder.parent, tmp_path / "exported" / "t")
    file = tables.write(tmp_path / "new.csv", tables.mixed(300, 9, 0.2))
    assert main(["calibrate", str(tmp_path / "exported" / "t"), "--data", str(file)]) == 0
    before, after = (layout.read(tmp_path / "exported", "t", version).manifest for version in (1, 2))
    assert after.calibration.rows == 300
    assert after.columns == before.columns
    assert after.drift
    assert after.drift.rows == 300


def test_more_rows_than_wanted_are_drawn_and_known_again(fitted: Fitted, config: Config, quiet: Progress):
    """A fit on 500 of the rows, the seed says which; evaluate leaves out those of them that trained it."""
    settings = {"data": str(fitted.file), "name": "s", "ignore": "id,state", "epochs": 1, "max_rows": 500}
    drawn = data.load(config(**settings), takes_missing=True)
    assert (len(drawn.rows), drawn.total) == (500, 1_500)
    assert drawn.sha256 == data.load(config(**settings), takes_missing=True).sha256
    assert drawn.sha256 != data.load(config(**settings, seed=1), takes_missing=True).sha256
    manifest = open_model(fit(config(**settings), quiet)).manifest
    found = read(str(fitted.file), manifest, None)
    assert found.fitted_rows == "left out"
    assert found.left_out is not None
    assert len(found.left_out) == 400
    splits = data.split(drawn, 0)
    trained = {row.tobytes() for row in torch.cat([splits.train, splits.early_stop]).numpy()}
    assert {row.tobytes() for row in found.left_out} == trained
    assert len(found.rows) == 1_100


def test_each_row_is_drawn_as_often_as_any_other():
    total, kept, trials = 40, 10, 2_000
    counts = np.bincount(
        np.concatenate([reservoir.drawn(total, kept, seed) for seed in range(trials)]), minlength=total
    )
    expected = trials * kept / total
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - kept / total))
    pieces = Reservoir(kept, 3)
    for part in np.array_split(np.arange(total), 7):  # however the file is cut into batches
        pieces.add(part, np.array([str(row) for row in part], dtype=object))
    np.testing.assert_array_equal(pieces.rows(()), reservoir.drawn(total, kept, 3))
    assert pieces.labels == [str(row) for row in pieces.rows(())]


def test_whole_and_holed_rows_get_scores_of_one_scale(fitted: Fitted):
    rows = fitted.encoded(1_000, 10)
    holes = np.where(np.random.default_rng(0).random(rows.shape) < 0.3, np.float32(np.nan), rows)
    whole, holed = (np.median(fitted.model.graphs[MODEL].run_all(part)[SCORE]) for part in (rows, holes))
    assert 0.6 < holed / whole < 1.6


def test_its_report_names_categories_and_marks_holes(fitted: Fitted):
    page = (fitted.folder / "report.html").read_text()
    assert "kind = worker" in page
    assert "Crosses are damaged or missing cells." in page
    assert "Of categories the likeliest is expected" in page
    card = (fitted.folder / "README.md").read_text()
    assert "| kind | categorical | worker, student, boss |" in card
    assert "cells may be missing (NaN)" in card
