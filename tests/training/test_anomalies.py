"""How well scores tell labelled anomalies: closed forms, baselines by their definitions, evaluate on real models."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import average_precision_score

from hourglass.contract import layout
from tests import artefacts
from training import baselines
from training.__main__ import main
from training.config import FitConfig
from training.detection import MODEL, Compared, figures, lost, rounded
from training.false_alarms import expected
from training.fit import fit
from training.progress import Progress

Config = Callable[..., FitConfig]
Evaluate = Callable[..., dict[str, Any]]


@given(
    scores=st.lists(st.integers(-3, 3), min_size=4, max_size=60),
    odd=st.integers(1, 3),
    weight=st.integers(1, 5),
)
def test_figures_are_their_definitions_ties_included(scores: list[int], odd: int, weight: int):
    values, anomalous = np.array(scores, dtype=float), np.arange(len(scores)) < odd
    found = figures(values, anomalous, np.where(anomalous, 1, weight))
    pairs = values[anomalous][:, None] - values[~anomalous]
    assert found["auroc"] == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    # As if each ordinary row were there `weight` times.
    repeated = np.repeat(values, np.where(anomalous, 1, weight))
    marked = np.repeat(anomalous, np.where(anomalous, 1, weight))
    assert found["auprc"] == pytest.approx(average_precision_score(marked, repeated))


@given(n=st.integers(1, 3_000), seed=st.integers(0, 2**32 - 1), decimals=st.integers(0, 3))
@settings(deadline=None)
def test_recall_is_the_largest_at_so_many_false_alarms(n: int, seed: int, decimals: int):
    rng = np.random.default_rng(seed)
    normal, odd = rng.normal(size=n).round(decimals), rng.normal(1, 1, size=50).round(decimals)
    scores, anomalous = np.concatenate([normal, odd]), np.arange(n + 50) >= n
    found = figures(scores, anomalous, np.ones(n + 50))
    for name, rate in (("recall_at_1_percent", 0.01), ("recall_at_0.1_percent", 0.001)):
        thresholds = np.concatenate([scores, [-np.inf]])
        allowed = [t for t in thresholds if (normal > t).sum() <= round(rate * n, 9)]
        best = max((odd > t).mean() for t in allowed)
        assert found[name] == (pytest.approx(best) if n >= 1 / rate else None)


def test_pca_is_the_error_outside_the_components_with_90_percent_of_the_variance():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float64)
    learned = rng.normal(size=(4_000, 5)) * [10, 6, 0.5, 0.5, 0.5] @ axes.T + 3
    rows = (rng.normal(size=(20, 5)) * 4) @ axes.T + 3
    outside = ((rows - 3) @ axes)[:, 2:]
    np.testing.assert_allclose(baselines.pca(learned, rows), (outside**2).sum(axis=1) / 5, rtol=0.1, atol=0.02)
    alike = rng.normal(size=(500, 4)) * [1, 1, 1, 0.9]  # 90 % takes all four: all but the last are kept
    last = (rows[:, :4] - alike.mean(axis=0)) @ np.linalg.svd(alike - alike.mean(axis=0))[2][3]
    np.testing.assert_allclose(baselines.pca(alike, rows[:, :4]), last**2 / 4, rtol=1e-6, atol=1e-9)
    few = learned[:3]  # fewer rows than features: they are on a plane, and on it nothing is lost
    assert baselines.pca(few, few).max() < 0.1 * baselines.pca(few, rows).min()


def test_knn_is_the_distance_to_the_fifth_nearest():
    learned = np.arange(10.0)[:, None]
    assert baselines.knn(learned, np.array([[0.0], [4.5], [20.0]])).tolist() == [4.0, 2.5, 15.0]
    assert baselines.knn(learned[:2], np.array([[0.0]])).tolist() == [1.0]


def test_the_forest_parts_the_far_first_and_always_alike():
    rng = np.random.default_rng(0)
    learned, rows = rng.normal(size=(500, 3)), np.array([[0.0, 0, 0], [3, 0, 0], [9, 9, 9]])
    scores = baselines.isolation_forest(learned, rows)
    assert (np.diff(scores) > 0).all()
    np.testing.assert_array_equal(scores, baselines.isolation_forest(learned, rows))


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_rows_that_are_all_alike_have_scores(name: str):
    scores = baselines.BASELINES[name](np.ones((20, 3), dtype=np.float32), np.array([[1, 1, 1], [5, 5, 5]], np.float32))
    assert np.isfinite(scores).all()
    assert scores[0] <= scores[1]


def test_a_model_that_loses_is_told_so():
    better = {MODEL: 0.9, "pca": 0.8, "knn": 0.9, "isolation_forest": 0.90001}
    assert lost(better) is None  # a difference that is not shown is none
    said = lost(better | {"pca": 0.95})
    assert said is not None
    assert said.startswith("The model (AUROC 0.900) loses to PCA (0.950). For these anomalies, take PCA")
    assert lost({**better, MODEL: 0.998, "pca": 0.9996}) == said.replace("0.900", "0.998").replace("0.950", "> 0.999")
    assert lost({**better, MODEL: 0.9996, "pca": 0.9999}) is None
    assert lost(better | {"knn": 0.91}) == "The model (AUROC 0.900) loses to kNN (0.910)."


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """The numbers of a command that ends well; what it printed is under 'printed', on one line."""

    def run(*arguments: object) -> dict[str, Any]:
        report = tmp_path / "report.json"
        capsys.readouterr()
        assert main(["evaluate", *map(str, arguments), "--json", str(report)]) == 0, capsys.readouterr().err
        return {**json.loads(report.read_text()), "printed": " ".join(capsys.readouterr().out.split())}

    return run


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluation.classification._LEAST_STEPS", 5)


def write(file: Path, scale: float = 1.0, labels: tuple[str, str] = ("0", "1")) -> tuple[Path, np.ndarray, np.ndarray]:
    """1,000 rows of c0 … c3 and y; every tenth is an anomaly, four times as large."""
    x, odd = scale * np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32), np.arange(1_000) % 10 == 0
    x[odd] *= 4
    lines = [",".join([*map(str, row), labels[is_odd]]) for row, is_odd in zip(x.tolist(), odd.tolist(), strict=True)]
    file.write_text("\n".join(["a,b,c,d,y", *lines]) + "\n")
    return file, x, odd


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "exported", "m", columns=list("abcd"))
    return tmp_path / "exported" / "m"


def test_rates_and_ranking_are_those_of_the_published_scores(linear: Path, tmp_path: Path, evaluate: Evaluate):
    file, x, odd = write(tmp_path / "t.csv")
    everything = evaluate(linear, "--data", file, "--labels", "y")
    found = everything["anomalies"]
    assert found["anomalies"] == "y 1"
    assert found["rows"] == {
        "normal": 900,
        "anomalous": 100,
        "tested_normal": 270,
        "tested_anomalous": 100,
        "baselines_learned": 630,
    }
    scores = artefacts.Linear.random().answers(x)["score"]
    calibration = layout.read(linear.parent, "m", 1).manifest.calibration
    assert list(found["false_alarms"]) == ["0.05", "0.01"]
    assert found["normal_rows"] == "fresh"
    for rate, numbers in found["false_alarms"].items():
        threshold = calibration.threshold(float(rate))
        assert numbers["threshold"] == threshold
        assert numbers["realised"] == pytest.approx((scores[~odd] > threshold).mean())
        assert (numbers["expected_low"], numbers["expected_high"]) == expected(calibration, float(rate), 900)
        assert numbers["recall"] == pytest.approx((scores[odd] > threshold).mean())
    beyond = [rate for rate, numbers in found["false_alarms"].items() if numbers["realised"] > numbers["expected_high"]]
    assert beyond == ["0.05"]  # by chance: these 199 calibration rows happen to be small
    assert "More false alarms than chance allows (5.0 % asked)" in everything["printed"]
    pairs = scores[odd][:, None] > scores[~odd]
    # Of 30 % of the ordinary rows, which the baselines did not learn from.
    assert found["methods"][MODEL]["auroc"] == pytest.approx(pairs.mean(), abs=0.02)
    assert found["methods"][MODEL]["recall_at_0.1_percent"] is None
    assert "270 normal rows are too few to count so few false alarms" in everything["printed"]
    assert "AUPRC as if 10.0 % of all rows were anomalies" in everything["printed"]


def test_a_model_that_loses_to_pca_is_told_so_in_plain_words(tmp_path: Path, evaluate: Evaluate):
    """It scores what is not anomalous: an embedding of everything but the last column, which never varies much."""
    blind = np.eye(4, dtype=np.float32)[:, [0, 3]]
    artefacts.publish(tmp_path / "exported", "m", artefacts.Linear(blind), columns=list("abcd"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)) * [9, 1, 1, 0.1]
    x[::10, 3] += 5
    lines = [",".join([*map(str, row), str(int(i % 10 == 0))]) for i, row in enumerate(x.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,y", *lines]) + "\n")
    found = evaluate(tmp_path / "exported/m", "--data", tmp_path / "t.csv", "--label", "y")
    methods = found["anomalies"]["methods"]
    assert methods[MODEL]["auroc"] == pytest.approx(0.5, abs=0.1)
    assert methods["pca"]["auroc"] > 0.9
    said = f"The model (AUROC {methods[MODEL]['auroc']:.3f}) loses to PCA ({methods['pca']['auroc']:.3f})"
    assert said in found["printed"]


def test_the_data_have_changed_until_they_calibrate(linear: Path, tmp_path: Path, evaluate: Evaluate):
    file, *_ = write(tmp_path / "t.csv", scale=2.0)
    before = evaluate(linear, "--data", file, "--label", "y")
    assert before["anomalies"]["false_alarms"]["0.05"]["realised"] > 0.2
    assert "More false alarms than chance allows (5.0 %, 1.0 % asked)" in before["printed"]
    assert main(["calibrate", str(linear), "--data", str(file), "--label=y", "--exclude-label=1"]) == 0
    after = evaluate(linear, "--data", file, "--label", "y")
    assert after["model"]["version"] == 2
    assert after["anomalies"]["normal_rows"] == "calibrated"
    assert after["anomalies"]["false_alarms"]["0.05"]["realised"] is None
    assert "These normal rows calibrated the model" in after["printed"]
    assert after["anomalies"]["methods"] == before["anomalies"]["methods"]
    other, *_ = write(tmp_path / "u.csv", scale=2.1)
    assert evaluate(linear, "--data", other, "--label", "y")["anomalies"]["normal_rows"] == "fresh"


def test_rates_that_the_calibration_cannot_promise_are_said(linear: Path, tmp_path: Path, evaluate: Evaluate):
    file, *_ = write(tmp_path / "t.csv")
    (tmp_path / "few.csv").write_text("\n".join(file.read_text().splitlines()[:31]) + "\n")
    arguments = [str(linear), "--data", str(tmp_path / "few.csv"), "--false-alarm-rate=0.1"]
    assert main(["calibrate", *arguments]) == 0
    found = evaluate(linear, "--data", file, "--label", "y")
    assert list(found["anomalies"]["false_alarms"]) == ["0.1", "0.05"]
    assert "30 calibration rows cannot promise 1.0 % false alarms" in found["printed"]


@pytest.mark.parametrize(
    ("labels", "flags", "named"),
    [
        (("normal", "attack"), [], "y attack"),
        (("False", "True"), [], "y True"),
        (("up", "down"), [], None),
        (("up", "down"), ["--anomalies=down"], "y down"),
        (("0", "1"), ["--anomalies=1.0"], "y 1.0"),
    ],
)
def test_which_labels_are_anomalies(
    labels: tuple[str, str], flags: list[str], named: str | None, linear: Path, tmp_path: Path, evaluate: Evaluate
):
    file, *_ = write(tmp_path / "t.csv", labels=labels)
    found = evaluate(linear, "--data", file, "--label", "y", *flags)
    assert found.get("anomalies", {}).get("anomalies") == named
    assert ("--anomalies V[,V] says which y are anomalies" in found["printed"]) == (named is None)
    if named:
        assert found["anomalies"]["rows"]["anomalous"] == 100
    assert found["classification"]["classes"] == 2


def test_rare_anomalies_are_measured_though_they_are_no_class(linear: Path, tmp_path: Path, evaluate: Evaluate):
    file, *_ = write(tmp_path / "t.csv")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:11], *(line for line in lines if line.endswith(",0"))]) + "\n")
    found = evaluate(linear, "--data", file, "--label", "y", "--anomalies", "1")
    assert found["anomalies"]["rows"]["anomalous"] == 1
    assert "classification" not in found
    assert "No classification: " in found["printed"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--anomalies=1"], "--anomalies needs --label COLUMN"),
        (["--label=y", "--anomalies=2"], r"t\.csv: no row has the y '2'"),
        (["--label=y", "--anomalies=0,1"], r"t\.csv: 0 rows that are no anomalies, but at least 10 are needed"),
    ],
)
def test_a_wrong_question_gets_one_clear_line(
    flags: list[str], says: str, linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, *_ = write(tmp_path / "t.csv")
    assert main(["evaluate", str(linear), "--data", str(file), *flags]) == 2
    assert re.search(says, capsys.readouterr().err.splitlines()[-1])


def test_rows_that_a_fit_excluded_are_its_anomalies(
    config: Config, tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], quiet: Progress
):
    """At the fit and in an evaluation on its file: the same rows, the same numbers, no false alarms made up."""
    file, *_ = write(tmp_path / "t.csv")
    settings = {"data": str(file), "name": "t", "label": "y", "exclude_label": "1", "batch_size": 64}
    folder = fit(config(**settings), quiet)
    found = layout.read(folder.parent.parent, "t", 1).manifest.provenance.detection
    assert found
    assert (found.normal_rows, found.anomalous_rows) == (180, 100)
    evaluated = evaluate(folder, "--data", file)["anomalies"]
    assert evaluated["anomalies"] == "y 1, which the fit excluded"
    assert evaluated["normal_rows"] == "calibrated"
    assert evaluated["rows"]["baselines_learned"] == 720
    assert evaluated["methods"][MODEL].pop("recall_at_0.1_percent") is None
    assert evaluated["methods"][MODEL] == pytest.approx(found.methods[MODEL], rel=1e-6)
    for name, close in (("pca", 1e-6), ("knn", 1e-6), ("isolation_forest", 0.03)):  # a forest looks at their order
        assert evaluated["methods"][name]["auroc"] == pytest.approx(found.methods[name]["auroc"], abs=close)


def test_a_fit_says_how_its_anomalies_are_told(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, *_ = write(tmp_path / "t.csv")
    folders = ["--exported", str(tmp_path / "exported"), "--runs", str(tmp_path / "runs")]
    flags = ["--label=y", "--exclude-label=1", "--epochs=1", "--no-examples"]
    assert main(["fit", "--data", str(file), "--name=t", *flags, *folders]) == 0
    said = capsys.readouterr().err
    figures = r"AUROC (0\.\d{3}) \(PCA (0\.\d{3}), kNN (0\.\d{3}), IsolationForest (0\.\d{3})\)"
    match = re.search(f"100 excluded rows taken as anomalies: {figures}", said)
    assert match
    model, *others = map(float, match.groups())
    assert ("warning: The model" in said) == any(other > model for other in others)


def test_only_what_is_one_is_written_as_one():
    assert [rounded(value) for value in (1.0, 0.9996, 0.99949, 0.5, None)] == [
        "1.000",
        "> 0.999",
        "0.999",
        "0.500",
        "–",
    ]


def test_a_model_of_mixed_data_says_that_its_calibration_rows_hold_anomalies(
    config: Config, tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
):
    """In the fit, the card, the report and an evaluation, until clean rows recalibrate it."""
    file, *_ = write(tmp_path / "t.csv")
    said = "rows hold the same anomalies as the training rows"
    settings = {"data": str(file), "label": "y", "batch_size": 64, "epochs": 1}
    for training_data in ("clean", "mixed"):
        stream = io.StringIO()
        made = config(**settings, name=training_data, training_data=training_data)
        fit(made, Progress(Console(file=stream, width=100)))
        folder = tmp_path / "exported" / training_data
        card, page = ((folder / "1" / name).read_text() for name in ("README.md", "report.html"))
        mixed = training_data == "mixed"
        assert stream.getvalue().count(f"warning: the calibration {said}") == mixed
        assert (said in card) == (said in page) == mixed
        assert ("anomalies included" in card) == ("anomalies included" in page) == mixed
        assert not re.search("normal|ordinary", page.partition("<body>")[2])
        assert "normal" not in card
        other, *_ = write(tmp_path / "u.csv", scale=1.1)
        assert (said in evaluate(folder, "--data", other, "--label", "y")["printed"]) == mixed
    assert main(["calibrate", str(folder), "--data", str(other), "--label=y", "--exclude-label=1"]) == 0
    assert said not in (folder / "2/README.md").read_text()
    assert said not in evaluate(folder, "--data", other, "--label", "y")["printed"]


def test_weights_are_of_whole_kinds_and_share_is_theirs():
    anomalous = np.array([False, False, True])
    compared = Compared({MODEL: np.array([0.0, 1.0, 2.0])}, anomalous, np.array([30.0, 30.0, 40.0]))
    assert compared.share == 0.4
    assert compared.figures()[MODEL]["auroc"] == 1
