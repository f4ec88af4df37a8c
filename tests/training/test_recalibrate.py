"""hourglass-train calibrate: the same graphs, another threshold, a new version."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hourglass.contract import layout
from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import GRAPHS
from hourglass.contract.quantization import Quantizations
from tests import artefacts
from tests.training.browser import Browser
from training.__main__ import main
from training.config import FitConfig
from training.data import Dataset
from training.fit import fit
from training.progress import Progress

Config = Callable[..., FitConfig]
NAMES = "abcd"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "exported", "m", columns=list(NAMES))
    return tmp_path / "exported"


def write(file: Path, rows: np.ndarray, labels: list[str] | None = None, names: str = NAMES) -> Path:
    header = ",".join([*names, *(["state"] if labels else [])])
    cells = [[*map(str, row), *([labels[i]] if labels else [])] for i, row in enumerate(rows.tolist())]
    file.write_text("\n".join([header, *(",".join(line) for line in cells)]) + "\n")
    return file


def rows(n: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(5).normal(size=(n, 4))).astype(np.float32)


def calibrate(*arguments: object) -> int:
    return main(["calibrate", *map(str, arguments)])


def test_a_version_made_without_int8_gets_it_and_one_that_has_it_keeps_it(tmp_path: Path):
    exported, x = tmp_path / "exported", rows(300)
    artefacts.publish(exported, "m", columns=list(NAMES), quantized=False)
    for scale in (1, 2):
        assert calibrate(exported / "m", "--data", write(tmp_path / "new.csv", x * scale)) == 0
    first, second, third = (layout.read(exported, "m", version, ()).manifest.quantization for version in (1, 2, 3))
    assert first is None
    embeddings = artefacts.Linear.random().answers(x)["embedding"]
    assert second
    assert second.plain.scale == pytest.approx(Quantizations.of(embeddings).plain.scale, rel=1e-5)
    # Vectors of one space are in one index, whichever version made them.
    assert third == second
    assert calibrate(exported / "m" / "1", "--data", write(tmp_path / "new.csv", x * 3)) == 0
    assert layout.read(exported, "m", 4, ()).manifest.quantization == second


def test_the_graphs_stay_byte_for_byte_and_the_threshold_is_of_the_new_rows(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    x = rows(400, scale=3.0)
    shuffled = write(tmp_path / "new.csv", x[:, [2, 0, 3, 1]], names="cadb")  # columns are found by name
    assert calibrate(exported / "m", "--data", shuffled, "--false-alarm-rate", 0.01) == 0
    assert capsys.readouterr().out == f"{exported / 'm' / '2'}\n"
    before, after = (layout.read(exported, "m", version, tuple(GRAPHS)) for version in (1, 2))
    assert after.files == before.files
    scores = artefacts.Linear.random().answers(x)["score"]
    kept = after.manifest.calibration
    assert kept.rows == 400
    assert kept.false_alarm_rate == 0.01
    np.testing.assert_allclose(kept.scores, 1.0001 * np.sort(scores), rtol=1e-5)
    source = after.manifest.provenance.recalibrated
    assert source
    assert source.model_dump(exclude={"fitted"}) == {
        "from_version": 1,
        "data": "new.csv",
        "data_sha256": Dataset.of("", x, None).sha256,
        "rows": 400,
    }
    assert source.fitted == before.manifest.provenance.created < after.manifest.provenance.created
    changed = {"calibration", "drift", "provenance"}
    assert after.manifest.model_dump(exclude=changed) == before.manifest.model_dump(exclude=changed)
    provenance = {"created", "recalibrated"}
    assert after.manifest.provenance.model_dump(exclude=provenance) == before.manifest.provenance.model_dump(
        exclude=provenance
    )


def test_people_are_told(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x = rows(400, scale=3.0)
    assert calibrate(exported / "m", "--data", write(tmp_path / "new.csv", x)) == 0
    said = capsys.readouterr().err
    old = layout.read(exported, "m", 1).manifest.calibration
    called = (artefacts.Linear.random().answers(x)["score"] > old.threshold(0.05)).mean()
    assert f"would have called {100 * called:.1f} % of these rows anomalies, at 5.0 % asked" in said
    card = (exported / "m/2/README.md").read_text()
    assert "Version 2, **recalibrated from version 1 on 400 rows of new.csv**" in card
    new = layout.read(exported, "m", 2).manifest.calibration
    assert f"above {new.threshold(0.05):.6g}" in card
    assert re.search(
        r"of many fresh rows this model calls 5\.0 % anomalies,\s+95 % interval\s+3\.\d % –\s+7\.\d %", card
    )
    page = (exported / "m/2/report.html").read_text()
    assert "report.html of version 1" in page
    assert "<h1>m, version 2</h1>" in page
    assert "Recalibrated from version 1 on 400 rows of new.csv." in page
    assert f"{100 * called:.1f} % of these rows would have been called anomalies" in page
    assert "before (199)" in page
    assert "now (400)" in page


def test_each_threshold_is_told_with_its_own_rate_and_the_path_as_it_was_given(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = write(tmp_path / "new.csv", rows(400))
    monkeypatch.chdir(tmp_path)
    assert calibrate("exported/m", "--data", file, "--false-alarm-rate=0.01") == 0
    captured = capsys.readouterr()
    assert captured.out == "exported/m/2\n"
    before, now = (layout.read(exported, "m", version).manifest.calibration for version in (1, 2))
    old, new = f"{before.threshold(0.05):.6g}", f"{now.threshold(0.01):.6g}"
    assert f"threshold {new}, at 1.0 % false alarms; before {old}, at 5.0 %\n" in captured.err
    page = (exported / "m/2/report.html").read_text()
    assert re.search(r"before, at 5\.0 %: [\d.]+<.*now, at 1\.0 %: [\d.]+<", page, re.DOTALL)
    assert calibrate("exported/m/1", "--data", file) == 0
    assert capsys.readouterr().out == "exported/m/3\n"


def test_its_page_has_nothing_to_complain_about(exported: Path, tmp_path: Path):
    assert calibrate(exported / "m", "--data", write(tmp_path / "new.csv", rows(400, scale=3.0))) == 0
    browser = Browser(tmp_path / "profile")
    address = (exported / "m/2/report.html").as_uri()
    for dark in (False, True):
        browser.open(address, width=360, dark=dark)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        assert browser.evaluate("document.querySelectorAll('svg .line').length") == 2
        assert browser.complaints() == []
    browser.close()


def test_a_recalibration_can_be_recalibrated(exported: Path, tmp_path: Path):
    for scale in (2.0, 3.0):
        assert calibrate(exported / "m", "--data", write(tmp_path / f"{scale}.csv", rows(200, scale))) == 0
    first, *_, last = (layout.read(exported, "m", version).manifest for version in (1, 2, 3))
    source = last.provenance.recalibrated
    assert source
    assert (source.from_version, source.data, source.fitted) == (2, "3.0.csv", first.provenance.created)
    assert last.calibration.false_alarm_rate == first.calibration.false_alarm_rate
    assert calibrate(exported / "m/1", "--data", tmp_path / "2.0.csv") == 0
    source = layout.read(exported, "m", 4).manifest.provenance.recalibrated
    assert source
    assert source.from_version == 1


def test_rows_with_excluded_labels_are_left_out(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x = rows(300)
    labels = ["1" if i % 10 == 0 else "0" for i in range(300)]
    file = write(tmp_path / "new.csv", np.where(np.arange(300)[:, None] % 10 == 0, 50 * x, x), labels)
    assert calibrate(exported / "m", "--data", file, "--label", "state", "--exclude-label", "1.0") == 0
    assert "270 rows of" in capsys.readouterr().err
    kept = layout.read(exported, "m", 2).manifest.calibration
    normal = x[np.arange(300) % 10 != 0]
    assert kept.rows == 270
    assert kept.scores[-1] == pytest.approx(1.0001 * artefacts.Linear.random().answers(normal)["score"].max(), rel=1e-5)


def test_rows_that_trained_the_model_never_calibrate_it(
    config: Config, tmp_path: Path, quiet: Progress, capsys: pytest.CaptureFixture[str]
):
    """On the fitted file the held-out rows are left: the same calibration, at another rate."""
    np.savez(tmp_path / "t.npz", X=rows(600), state=np.arange(600) % 6 == 0)
    folder = fit(config(data=str(tmp_path / "t.npz"), name="t", label="state", exclude_label="True", epochs=1), quiet)
    capsys.readouterr()
    assert calibrate(folder.parent, "--data", tmp_path / "t.npz", "--false-alarm-rate", 0.1) == 0
    said = capsys.readouterr().err
    assert "100 rows of" in said
    assert "400 that trained the model or stopped it left out, 100 whose label is excluded left out" in said
    before, after = (layout.read(folder.parent.parent, "t", version).manifest for version in (1, 2))
    assert after.calibration == Calibration.from_scores(np.array(before.calibration.scores), 0.1)
    content = json.loads((folder / "manifest.json").read_text())
    content["provenance"]["rows"] = {"train": 300, "early_stop": 100, "calibration": 100}
    (folder / "manifest.json").write_text(json.dumps(content))
    assert calibrate(folder, "--data", tmp_path / "t.npz") == 2
    assert "which of them trained it is not known: calibrate with others" in capsys.readouterr().err


REFUSED = {
    "too few rows": (rows(98), ["--false-alarm-rate=0.01"], "98 rows cannot promise .* 0.01: at least 99 are needed"),
    "too few for its own": (rows(18), [], r"18 rows .* 0\.05: at least 19 are needed, or a .* of 0\.052632$"),
    "a missing column": (rows(50)[:, :3], [], "no column 'd'"),
    "no such label": (rows(50), ["--label=stat", "--exclude-label=1"], "no column 'stat'"),
    "a value nobody has": (rows(50), ["--label=state", "--exclude-label=2"], r"no row has the state '2' \(known: 0\)"),
    "excluded without a label": (rows(50), ["--exclude-label=1"], "--exclude-label needs --label COLUMN"),
    "an impossible rate": (rows(50), ["--false-alarm-rate=1"], "'1' is not a number between 0 and 1"),
    "no number": (rows(50), ["--false-alarm-rate=x"], "'x' is not a number between 0 and 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_calibrate_is_refused_and_nothing_is_published(
    kind: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    x, flags, says = REFUSED[kind]
    file = write(tmp_path / "new.csv", x, ["0"] * len(x), NAMES[: x.shape[1]])
    assert calibrate(exported / "m", "--data", file, *flags) == 2
    assert re.search(says, capsys.readouterr().err.splitlines()[-1])
    assert [entry.name for entry in (exported / "m").iterdir()] == ["1"]


@pytest.mark.parametrize("n", [19, 99])
def test_as_many_rows_as_are_asked_for_are_enough(n: int, exported: Path, tmp_path: Path):
    file = write(tmp_path / "new.csv", rows(n))
    assert calibrate(exported / "m", "--data", file, "--false-alarm-rate", 1 / (n + 1)) == 0


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artefacts.publish(tmp_path / "exported", "m", artefacts.Linear.random(clip=1e30))
    np.save(tmp_path / "t.npy", np.where(np.arange(60)[:, None] < 3, 1e25 * rows(60), rows(60)))
    assert calibrate(tmp_path / "exported/m", "--data", tmp_path / "t.npy") == 2
    assert "3 of 60 rows score NaN or infinity" in capsys.readouterr().err
