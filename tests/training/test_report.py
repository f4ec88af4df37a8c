"""report.html: everything in one file, what it shows is true, and a real browser has nothing to complain about."""

from __future__ import annotations

import base64
import csv
import io
import re
import sys
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

import training.export
import training.fit
from hourglass.contract.manifest import Manifest
from hourglass.contract.schema import Column, Schema
from tests.training.browser import Browser
from tests.training.conftest import SMALL
from training import card
from training.__main__ import _parser, _settings
from training.at_hand import AtHand
from training.config import FitConfig
from training.errors import ExportError, RunError
from training.export import Trained
from training.fit import fit
from training.progress import Progress
from training.report import charts, embedding, learning, model, pictures
from training.report.axis import Axis, number
from training.report.charts import Block, Sample, Series
from training.report.page import Figure, Page, Section
from training.run import Run

Config = Callable[..., FitConfig]
COLUMNS = ("plain", "<script>alert(1)</script>", 'a&"b"', "</title>", "{{ 7 * 7 }}", "long " * 30)
DIGITS = np.round(load_digits().images / 16 * 255).astype(np.uint8)  # as pixels


@dataclass(frozen=True)
class Reported:
    """A published folder, its page, and what the page was drawn from."""

    folder: Path
    trained: Trained
    manifest: Manifest
    answers: Mapping[str, np.ndarray]
    at_hand: AtHand | None

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def drawn(self, **changes: object) -> str:
        """The page of a run that differs in this."""
        return model.render(replace(self.trained, **changes), self.manifest, self.answers, self.at_hand)

    def without_examples(self) -> str:
        return self.drawn(config=self.trained.config.model_copy(update={"no_examples": True}))


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reported]:
    """vae (of digits), table (denoising), conv (of colour images) and odd (a table, with anomalies left out)."""
    folder = tmp_path_factory.mktemp("reports")
    random = np.random.default_rng(0)
    np.savez(folder / "colours.npz", X=random.random((60, 9, 7, 3)), y=np.repeat(["dark", "light"], 30))
    causes = random.normal(size=(300, 2)) @ random.normal(size=(2, len(COLUMNS)))
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(causes + 0.1 * random.normal(size=causes.shape))
    odd = np.where(np.arange(600) % 10 == 0, np.where(np.arange(600) % 20 == 0, "leak", "<worn>"), "ok")
    plane = random.normal(size=(600, 2)) @ random.normal(size=(2, 5))
    plane[odd == "leak", 0] += 6
    plane[odd == "<worn>", 1] -= 3
    np.savez(folder / "odd.npz", X=100 + 20 * (plane + 0.1 * random.normal(size=plane.shape)), state=odd)
    fits: dict[str, dict[str, object]] = {
        "vae": {"data": "digits", "variant": "vae", "label": "label"},
        "table": {"data": str(folder / "table.csv")},
        "conv": {"data": str(folder / "colours.npz"), "variant": "basic", "network": "conv", "hidden": "4,8"},
        "odd": {"data": str(folder / "odd.npz"), "label": "state", "exclude_label": "leak,<worn>"},
    }
    made = {}
    for name, own in fits.items():
        folders = {"exported": folder / "exported", "runs": folder / "runs"}
        config = FitConfig.model_validate({"name": name, **SMALL, **folders, **own})
        with mock.patch.object(model, "render", wraps=model.render) as render:
            published = fit(config, Progress(Console(file=io.StringIO())))
        made[name] = Reported(published, *render.call_args.args)
    return made


NAMES = ("vae", "table", "conv", "odd")


class Parsed(HTMLParser):
    """tags: (name, attributes) in order; text: all of it; captions: of the figures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.captions: list[str] = []
        self._in_caption = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "figcaption":
            self.captions.append("")
            self._in_caption = True

    def handle_endtag(self, tag: str) -> None:
        self._in_caption &= tag != "figcaption"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_caption:
            self.captions[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def strips(page: str) -> list[np.ndarray]:
    """Every image of the page: uint8 [h, w, 4]."""
    sources = [image["src"].removeprefix("data:image/png;base64,") for image in Parsed(page).all("img")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def tiles(page: str, height: int, width: int) -> list[np.ndarray]:
    """The tiles of that size in every strip: uint8 [height, width, 4]."""
    cell = width + 2 * max(1, width // 16)
    return [
        strip[:, start + (cell - width) // 2 :][:, :width]
        for strip in strips(page)
        if strip.shape[0] == height
        for start in range(0, strip.shape[1], cell)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_in_the_one_file(name: str, reports: dict[str, Reported]):
    page, parsed = reports[name].page, Parsed(reports[name].page)
    policy = {"http-equiv": "Content-Security-Policy"}.items()
    (security,) = [meta["content"] for meta in parsed.all("meta") if policy <= meta.items()]
    assert security == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    references = [v for _, attributes in parsed.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert references
    assert all(reference.startswith("data:") for reference in references)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in parsed.tags}
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    assert str(reports[name].folder.parents[2]) not in page
    assert str(Path.cwd()) not in page
    assert len(page.encode()) < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_described_and_every_figure_says_how_to_read_it(name: str, reports: dict[str, Reported]):
    parsed = Parsed(reports[name].page)
    assert all(len(image["alt"]) > 8 for image in parsed.all("img"))
    assert all(len(chart["aria-label"]) > 8 for chart in parsed.all("svg"))
    assert len(parsed.captions) == len(parsed.all("figure")) > 5
    assert all(len(caption) > 8 for caption in parsed.captions)
    assert not re.search(r"\b(nan|inf|None)\b", parsed.text)


def test_names_from_the_data_are_text(reports: dict[str, Reported]):
    parsed = Parsed(reports["table"].page)
    assert not parsed.all("script")
    assert all(name.strip() in parsed.text for name in COLUMNS)
    assert "49" not in re.findall(r"\b49\b", parsed.text)


def test_only_models_with_a_prior_have_traversals_and_draws(reports: dict[str, Reported]):
    has = {n: ("One dimension at a time" in r.page, "Drawn from the prior" in r.page) for n, r in reports.items()}
    assert has == {name: (name == "vae", name == "vae") for name in NAMES}


def test_only_images_have_filters(reports: dict[str, Reported]):
    assert [name for name, reported in reports.items() if "First layer" in reported.page] == ["vae", "conv"]


def test_the_rows_shown_are_calibration_rows_by_rising_score(reports: dict[str, Reported]):
    reported = reports["vae"]
    pixels = np.round(reported.trained.splits.calibration.numpy() / 16 * 255).astype(np.uint8)
    shown = tiles(reported.page, 8, 8)[:10]
    places = [int(np.flatnonzero((pixels == tile[..., 0]).all(axis=(1, 2)))[0]) for tile in shown]
    scores = reported.answers["score"][places]
    assert (np.diff(scores) > 0).all()
    assert scores[[0, -1]].tolist() == [reported.answers["score"].min(), reported.answers["score"].max()]
    head = re.findall(r'<div class="cells"[^>]*>(.*?)</div>', reported.page)[0]
    assert re.findall(r">([-\d.e+]+)</span>", head) == [f"{score:.3g}" for score in scores]
    assert head.count("warn") == (scores > reported.manifest.calibration.threshold(0.01)).sum() >= 1


def test_no_examples_shows_no_row(reports: dict[str, Reported]):
    def rows_shown(page: str) -> int:
        return sum(bool((tile[..., 0] == DIGITS).all(axis=(1, 2)).any()) for tile in tiles(page, 8, 8))

    images, private = reports["vae"].page, reports["vae"].without_examples()
    assert rows_shown(images) >= 10
    assert rows_shown(private) == 0
    assert tiles(private, 8, 8)  # what is drawn from the prior is nobody's
    assert "no picture on this page shows a single row" in private
    table, private_table = reports["table"].page, reports["table"].without_examples()
    for drawn in ('class="dots', 'class="warmth'):
        assert drawn in table
        assert drawn not in private + private_table


def test_no_examples_is_a_flag_a_key_and_said_in_the_card(reports: dict[str, Reported], tmp_path: Path):
    flags = ["fit", "--data=digits", "--name=x"]
    assert "no_examples" not in _settings(_parser().parse_args(flags))
    assert _settings(_parser().parse_args([*flags, "--no-examples"]))["no_examples"] is True
    (tmp_path / "fit.toml").write_text("no_examples = true")
    assert _settings(_parser().parse_args([*flags, "--config", str(tmp_path / "fit.toml")]))["no_examples"] is True
    trained, manifest = reports["table"].trained, reports["table"].manifest
    cards = {
        private: card.render(trained.config.model_copy(update={"no_examples": private}), manifest, trained.served)
        for private in (False, True)
    }
    assert cards[False] == (reports["table"].folder / "README.md").read_text()
    assert "`report.html` has the pictures: some rows of the data are shown in it." in cards[False]
    assert "`report.html` has the pictures: no row of the data is shown in it." in cards[True]


def test_names_are_no_html_in_the_card(reports: dict[str, Reported]):
    trained, manifest = reports["table"].trained, reports["table"].manifest
    config = trained.config.model_copy(update={"label": "<i>", "exclude_label": ("\n# x",)})
    assert "; rows with &lt;i&gt; in # x left out;" in card.render(config, manifest, trained.served)
    column = Column(name="a|<b>\n", type="categorical", categories=("<script>", "&"))
    text = card._columns(manifest.model_copy(update={"row_schema": Schema((column,))}))
    assert text.endswith("\n| a\\|&lt;b&gt; | categorical | &lt;script&gt;, &amp; |\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_histogram_counts_every_calibration_row(name: str, reports: dict[str, Reported]):
    scores, calibration = reports[name].answers["score"], reports[name].manifest.calibration
    bars = re.findall(r'class="area (s\d)"[^>]*><title>[-\d.,e+]+ to [-\d.,e+]+: ([\d,]+) rows', reports[name].page)
    assert sum(int(count.replace(",", "")) for _, count in bars) == len(scores)
    beyond = sum(int(count.replace(",", "")) for css, count in bars if css == "s1")
    assert beyond <= (scores > calibration.threshold(calibration.false_alarm_rate)).sum()


def test_anomalies_at_hand_are_told_beside_the_baselines(reports: dict[str, Reported]):
    """The figures of the manifest, in the page and the card, recomputed from the scores."""
    reported = reports["odd"]
    found = reported.manifest.provenance.detection
    assert found
    assert (found.anomalous_rows, found.normal_rows) == (60, 108)
    at_hand = reported.at_hand
    assert at_hand
    assert sorted(set(at_hand.excluded.labels)) == ["<worn>", "leak"]
    odd, normal = at_hand.answers["score"].astype(np.float64), reported.answers["score"].astype(np.float64)
    above = (odd[:, None] > normal).mean() + 0.5 * (odd[:, None] == normal).mean()
    assert found.methods["model"]["auroc"] == pytest.approx(above, abs=1e-9)
    assert found.methods["pca"]["auroc"] > 0.9  # of rows on a plane
    text = Parsed(reported.page).text
    card_text = (reported.folder / "README.md").read_text()
    for values in found.methods.values():
        assert f"{values['auroc']:.3f}" in text
        assert f"| {values['auroc']:.3f} | {values['auprc']:.3f} |" in card_text
    loses = found.methods["model"]["auroc"] < found.methods["pca"]["auroc"] - 0.001
    assert ("loses to PCA" in text) == ("loses to PCA" in card_text) == loses
    assert "leak (30)" in text
    assert "<worn> (30)" in text
    assert "Anomalies at hand" not in reports["table"].page
    assert reports["table"].manifest.provenance.detection is None


def test_rows_are_explained_by_share_observed_and_expected(reports: dict[str, Reported]):
    reported = reports["odd"]
    calibration, answers = reported.trained.splits.calibration.numpy(), reported.answers
    tables = re.findall(r"<h3>([^<]+)</h3>\s*<div class=\"table\"><table>(.*?)</table>", reported.page, re.DOTALL)
    explained = {title: re.findall(r"<td>(.*?)</td>", body) for title, body in tables}
    cells = explained["Calibration rows that score highest"]
    assert len(cells) == 6 * 5
    worst = int(np.argmax(answers["score"]))
    share = answers["feature_error"][worst] / answers["feature_error"][worst].sum()
    j = int(np.argmax(share))
    seen, expected = (number(float(rows[worst, j])) for rows in (calibration, answers["reconstruction"]))
    n = reported.manifest.calibration.rows
    assert cells[:3] == [
        number(answers["score"][worst]),
        f"{2 / (n + 1):.2g}",
        f'<span class="name">c{j}</span> ({share[j]:.0%}): {seen}, expected {expected}',
    ]
    at_hand = reported.at_hand
    assert at_hand
    threshold = reported.manifest.calibration.threshold(reported.manifest.calibration.false_alarm_rate)
    firsts: dict[tuple[str, int], float] = {}
    for label, share, score in zip(
        at_hand.excluded.labels, at_hand.answers["feature_error"], at_hand.answers["score"], strict=True
    ):
        kind = (label, int(share.argmax()))
        if score > threshold:
            firsts[kind] = max(score, firsts.get(kind, 0))
    scores = np.sort(at_hand.answers["score"])
    best = sorted(firsts.values(), reverse=True)[:6]
    others = [score for score in scores[::-1] if score not in best][: 6 - len(best)]
    assert len(best) > 1
    assert {label for label, _ in firsts} == {"leak", "<worn>"}
    shown = sorted([*best, *others], reverse=True)
    assert shown != scores[::-1][:6].tolist()
    assert explained["Anomalies that stand out"][1::6] == [number(score) for score in shown]
    assert set(explained["Anomalies that stand out"][::6]) == {"leak", "&lt;worn&gt;"}
    assert explained["Anomalies that pass"][1::6] == [number(score) for score in scores[:6]]
    private = reported.without_examples()
    assert "Single rows explained" not in private
    assert "Anomalies at hand" in private


def test_false_alarms_are_rehearsed_where_enough_rows_say_something(reports: dict[str, Reported]):
    asked = "False alarms, asked and realised"
    assert {name for name, reported in reports.items() if asked in reported.page} == {"vae"}
    vae = reports["vae"]
    tied = {**vae.answers, "score": np.ones_like(vae.answers["score"])}
    page = model.render(vae.trained, vae.manifest, tied, vae.at_hand)
    heights = {}
    for page_of, text in (("real", vae.page), ("tied", page)):
        (line,) = re.findall(r'class="line s0" d="([^"]*)"><title>realised<', text)
        heights[page_of] = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", line)]
    assert len(set(heights["tied"])) == 1  # nothing is beyond a threshold that all rows lie on
    assert (np.diff(heights["real"]) <= 0).all()  # a higher rate calls more rows anomalies
    assert len(set(heights["real"])) > 10


def test_pictures_need_no_file_once_the_rows_are_read(
    config: Config, quiet: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "t.npz"
    rows = np.random.default_rng(0).normal(size=(100, 3))
    np.savez(source, X=rows, y=np.where(rows[:, 0] > 0, "up", "down"))
    train = training.fit.train

    def delete_and_train(*arguments: Any) -> None:
        source.unlink()
        train(*arguments)

    monkeypatch.setattr(training.fit, "train", delete_and_train)
    published = fit(config(data=str(source), name="t", label="y", epochs=1), quiet)
    page = (published / "report.html").read_text()
    counted = re.findall(r'<i class="s\d"></i>(up|down) \((\d+)\)', page)
    calibration = np.random.default_rng(0).permutation(100)[80:]
    up = int((rows[calibration, 0] > 0).sum())
    assert dict(counted) == {"up": str(up), "down": str(20 - up)}


def test_dots_are_coloured_by_label_and_by_score_without_one(reports: dict[str, Reported]):
    key = dict(re.findall(r'<i class="(s\d)"></i>(\d) \(\d+\)', reports["vae"].page))
    assert sorted(key.values()) == list("0123456789")
    assert len(key) == 10
    assert "highest tenth (6)" in reports["table"].page


def test_many_labels_become_ten_colours():
    labels = np.array([str(number) for number in range(30) for _ in range(number + 1)])
    groups = embedding._by_label(labels)
    assert [name for name, _, _ in groups] == ["other labels", *map(str, range(21, 30))]
    assert len({css for _, css, _ in groups}) == 10
    assert (sum(chosen.astype(int) for _, _, chosen in groups) == 1).all()


def test_pca_finds_the_plane_that_rows_lie_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "umap.umap_", None)
    random = np.random.default_rng(0)
    axes, _ = np.linalg.qr(random.normal(size=(7, 2)))
    plane = random.normal(size=(500, 2)) * [3, 1]
    x, y, names, how = embedding.projected(plane @ axes.T + 5, np.zeros(500), 0)
    centred = plane - plane.mean(axis=0)
    np.testing.assert_allclose(np.hypot(x, y), np.hypot(*centred.T), rtol=1e-6)
    assert x.var() > 5 * y.var()
    assert re.fullmatch(r"first axis, (89|90|91)% of the variance", names[0])
    assert how.startswith("PCA")


def test_umap_is_drawn_where_it_is_installed(monkeypatch: pytest.MonkeyPatch):
    class UMAP:
        def __init__(self, random_state: int, n_jobs: int) -> None:
            self.seed = random_state

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2] + self.seed

    monkeypatch.setitem(sys.modules, "umap.umap_", types.SimpleNamespace(UMAP=UMAP))
    rows = np.arange(30.0).reshape(10, 3)
    x, y, _, how = embedding.projected(rows, np.zeros(10), 7)
    assert how.startswith("UMAP")
    np.testing.assert_array_equal(np.stack([x, y], axis=1), rows[:, :2] + 7)


def test_embeddings_of_one_and_two_numbers_are_drawn_as_they_are():
    rows, scores = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20.0)
    x, y, *_ = embedding.projected(rows, scores, 0)
    np.testing.assert_array_equal(np.stack([x, y], axis=1), rows)
    x, y, *_ = embedding.projected(rows[:, :1], scores, 0)
    np.testing.assert_array_equal((x, y), (rows[:, 0], scores))


def test_a_log_is_read_to_its_last_whole_line(reports: dict[str, Reported], tmp_path: Path):
    (run,) = (reports["vae"].folder.parent.parent.parent / "runs" / "vae").iterdir()
    whole = Run.open(run).log.read_text()
    log = tmp_path / "log.jsonl"
    log.write_text(whole[:-20])
    assert learning.read_log(log) == reports["vae"].trained.epochs[:2]
    log.write_text(whole.replace('"epoch": 2', '"epoch": two'))
    with pytest.raises(RunError, match=r"log\.jsonl, line 2: not the record of an epoch"):
        learning.read_log(log)
    assert learning.read_log(tmp_path / "none.jsonl") == []


def test_a_run_without_its_log_has_a_report_that_says_so(reports: dict[str, Reported]):
    assert "rows/s" in reports["table"].page
    page = reports["table"].drawn(epochs=[])
    assert "log is gone" in page
    assert "rows/s" not in page


def test_a_new_phase_of_training_begins_a_new_line(reports: dict[str, Reported]):
    one, two, three = reports["table"].trained.epochs
    page = reports["table"].drawn(
        epochs=[replace(one, train={"layer 1": 9.0}, early_stop={"layer 1": 8.0}), two, three]
    )
    loss = re.findall(r'class="line s\d" d="([^"]*)"><title>(?:train|early stop)<', page)
    assert [line.count("M") for line in loss] == [2, 2]
    assert "layer 1" in page


def test_a_report_that_cannot_be_drawn_is_an_error_of_the_export(
    reports: dict[str, Reported], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(charts, "histogram", lambda *_arguments: 1 / 0)
    reported = reports["table"]
    with pytest.raises(ExportError, match=r"report\.html cannot be drawn.*ZeroDivisionError.*the run is kept"):
        training.export._report(reported.trained, reported.manifest, reported.answers, reported.at_hand)


NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def assert_draws(markup: str) -> ET.Element:
    """It is well-formed, and every coordinate is a number."""
    root = ET.fromstring(f"<div>{markup}</div>")
    paths = [path.get("d", "") for path in root.iter("path")]
    places = [f"{text.get('x')} {text.get('y')}" for text in root.iter("text")]
    assert paths
    assert not any(word in drawn for drawn in (*paths, *places) for word in ("nan", "inf"))
    return root


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 400), elements=NUMBERS))
def test_any_numbers_can_be_drawn_as_lines(values: np.ndarray):
    assert_draws(charts.lines([Series("a", "line s0", np.arange(len(values)) + 1.0, values)], "x", "y", "alt"))


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 50), elements=FINITE), FINITE)
def test_any_finite_numbers_can_be_drawn_as_bars_dots_and_histograms(values: np.ndarray, mark: float):
    names = [f"column {number}" for number in range(len(values))]
    assert_draws(charts.bars(values, names, "x", "y", "alt"))
    assert_draws(charts.named_bars(values, names, "x", "alt"))
    assert_draws(charts.scatter([Series("a", "s0", values, values[::-1])], "x", "y", "alt"))
    assert_draws(
        charts.histograms(
            [Sample("a", "s0", values), Sample("b", "s1", values[:1], np.ones(1))], "x", "alt", [(mark, "m")]
        )
    )
    root = assert_draws(charts.histogram(values, "x", "alt", (mark, "mark")))
    titles = [title.text or "" for title in root.iter("title")]
    assert sum(int(title.split(": ")[1].split()[0].replace(",", "")) for title in titles) == len(values)


@settings(deadline=None)
@given(FINITE, st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_are_few_round_and_within(low: float, span: float, wanted: int):
    high = low + span * max(1.0, abs(low))
    axis = Axis("x", low, high, 0, 100)
    ticks = [tick for tick, _ in axis.ticks(wanted)]
    assert 1 <= len(ticks) <= wanted + 1
    room = 1e-6 * (high - low)
    assert all(low - room <= tick <= high + room for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[:1], rtol=1e-3)


def test_ticks_of_known_axes():
    def shown(low: float, high: float, log: bool = False, whole: bool = False) -> list[str]:
        return [text for _, text in Axis("", low, high, 0, 1, log, whole).ticks(5)]

    assert shown(0, 10) == ["0", "2", "4", "6", "8", "10"]
    assert shown(1, 3, whole=True) == ["1", "2", "3"]
    assert shown(0.02, 3, log=True) == ["0.1", "1"]
    assert shown(0, 12_000) == ["0", "5,000", "10,000"]


def test_a_line_is_where_its_numbers_are_and_breaks_at_nan():
    values = np.array([0.0, 1.0, np.nan, 0.5, 1.0])
    root = assert_draws(charts.lines([Series("a", "line s0", np.arange(5.0), values)], "x", "y", "alt"))
    (line,) = [path.get("d") or "" for path in root.iter("path") if path.get("class") == "line s0"]
    points = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", line)]
    assert line.count("M") == 2
    across, down = zip(*points, strict=True)  # of 0, 1, 0.5 and 1: pixels are counted from the top
    step, rise = across[1] - across[0], down[1] - down[0]
    assert step > 0 > rise
    np.testing.assert_allclose((np.array(across) - across[0]) / step, [0, 1, 3, 4], atol=0.01)
    np.testing.assert_allclose((np.array(down) - down[0]) / rise, [0, 1, 0.5, 1], atol=0.01)


def test_histograms_of_two_kinds_show_the_share_of_each():
    few, many = np.array([1.0, 2.0]), np.array([1.0, 2.0, 2.0, 2.0])
    weighted = Sample("few", "s1", few, np.array([1, 3]))
    drawn = [
        charts.histograms([one, Sample("x", "s2", many)], "x", "alt", [(2.0, "m")])
        for one in (weighted, Sample("many", "s1", many))
    ]
    outlines = [re.findall(r'class="line s1" d="([^"]*)"', markup) for markup in drawn]
    assert outlines[0] == outlines[1]
    bottom, *_ = re.findall(r"M[\d.]+ ([\d.]+)", outlines[0][0])
    heights = {float(bottom) - float(y) for y in re.findall(r"V([\d.]+)", outlines[0][0])} - {0.0}
    assert max(heights) / min(heights) == pytest.approx(3, rel=0.01)


def test_no_label_of_a_threshold_lies_on_the_line_of_another():
    sample = Sample("many", "s0", np.linspace(0, 10, 50))
    drawn = charts.histograms([sample], "x", "alt", [(5.0, "before"), (5.1, "now"), (2.0, "also")])
    tops = [float(top) for top in re.findall(r'class="rule" d="M[\d.]+ [\d.]+V([\d.]+)"', drawn)]
    labels = [float(y) for y in re.findall(r'y="([\d.]+)" class="label"', drawn)]
    assert len(tops) == len(labels) == len(set(labels)) == 3
    assert max(labels) < min(tops)
    assert np.diff(sorted(labels)).min() >= 11  # the height of a letter


def test_a_heat_map_is_warm_above_and_cool_below():
    block = Block("one", ["a", "b"], np.array([[1.0, 0.0, -2.0], [0.01, -0.5, 0.5]]), np.eye(2, 3, dtype=bool))
    root = assert_draws(charts.heat([block], ["x", "<y>", "z" * 60], "alt"))
    marks = {(path.get("class"), path.get("fill-opacity")): (path.get("d") or "") for path in root.iter("path")}
    cells = {kind: path.count("M") for kind, path in marks.items() if kind[0] != "grid"}
    assert cells == {
        ("warmth", None): 1,
        ("coolth", None): 1,
        ("coolth", "0.5"): 1,
        ("warmth", "0.5"): 1,
        ("damage", None): 2,
    }
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    assert "<y><y>" in texts  # the name, and in full under the pointer


def test_tiles_show_the_numbers_given():
    random = np.random.default_rng(0)
    grey, colour = random.random((3, 5, 4)), random.random((3, 5, 4, 3))
    for images, channels in ((grey, grey[..., None].repeat(3, axis=3)), (colour, colour)):
        page = f"<p>{pictures.lanes([pictures.Lane('a', pictures.brightness(images))], 'alt')}"
        shown = np.stack(tiles(page, 5, 4))
        np.testing.assert_array_equal(shown[..., :3], np.round(255 * channels))
        assert (shown[..., 3] == 255).all()
        (strip,) = strips(page)
        assert (strip[:, [0, -1], 3] == 0).all()
    warm = pictures.warmth(np.array([[[1.0, -1.0, 0.0, 5.0, np.nan]]]))[0, 0]
    assert warm[0].tolist() == warm[3].tolist() == [*pictures._WARM, 255]
    assert warm[1].tolist() == [*pictures._COOL, 255]
    assert warm[2, 3] == warm[4, 3] == 0


def test_large_images_are_reduced():
    wide = pictures.brightness(np.ones((2, 30, 300)))
    (strip,) = strips(f"<p>{pictures.lanes([pictures.Lane('', wide)], 'alt')}")
    assert strip.shape == (5, 2 * (48 + 2 * 3), 4)


def test_a_page_of_anything_is_a_title_and_sections():
    figure = Figure("<b>", charts.bars(np.ones(2), ["a", "b"], "x", "y", "alt"), "how & why", wide=True)
    page = Page("a < b", "sub", {"fact": "<i>"}, [Section("one", "", [figure], [figure])], footer="end").html()
    parsed = Parsed(page)
    assert not parsed.all("b")
    assert "a < b" in parsed.text
    assert "<i>" in parsed.text
    assert parsed.captions == ["how & why", "how & why"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_browser_shows_every_picture_without_complaint(
    name: str, dark: bool, reports: dict[str, Reported], browser: Browser
):
    address = (reports[name].folder / "report.html").as_uri()
    browser.open(address, dark=dark)
    images = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    charted = browser.evaluate(
        "[...document.querySelectorAll('svg')].map(svg => [svg.children.length, svg.getBBox().width, "
        "svg.getBoundingClientRect().height])"
    )
    assert len(images) >= (0 if name in ("table", "odd") else 3)
    assert all(width > 0 for width in images)
    assert len(charted) >= 5
    assert all(children > 2 and width > 50 and height > 50 for children, width, height in charted)
    assert [request for request in browser.requests() if not request.startswith("data:")] == [address]
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_its_window(name: str, width: int, reports: dict[str, Reported], browser: Browser):
    browser.open((reports[name].folder / "report.html").as_uri(), width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1100, 500, 360])
def test_no_number_of_a_table_is_broken(width: int, reports: dict[str, Reported], browser: Browser):
    browser.open((reports["odd"].folder / "report.html").as_uri(), width=width)
    broken = """
    [...document.querySelectorAll('td')].flatMap(cell => {
      const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
      while (walker.nextNode()) {
        if (walker.currentNode.parentElement.matches('.name')) continue;
        for (const word of walker.currentNode.data.matchAll(/\\S+/g)) {
          const range = document.createRange();
          range.setStart(walker.currentNode, word.index);
          range.setEnd(walker.currentNode, word.index + word[0].length);
          if (range.getClientRects().length > 1) found.push(word[0]);
        }
      }
      return found;
    })
    """
    assert browser.evaluate("document.querySelectorAll('td').length") > 60
    assert browser.evaluate(broken) == []


LUMINANCE = """
(colour => {
  const linear = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
})(getComputedStyle(document.querySelector('%s')).%s)
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_in_light_and_dark(dark: bool, reports: dict[str, Reported], browser: Browser):
    browser.open((reports["table"].folder / "report.html").as_uri(), dark=dark)
    card = browser.evaluate(LUMINANCE % ("figure", "backgroundColor"))
    assert (card < 0.1) == dark
    for element, style in (("h3", "color"), ("figcaption", "color"), ("dd", "color"), ("svg text", "fill")):
        lightness = sorted((card, browser.evaluate(LUMINANCE % (element, style))))
        assert (lightness[1] + 0.05) / (lightness[0] + 0.05) >= 4.5, element  # WCAG 2, level AA


def test_the_page_may_fetch_nothing(reports: dict[str, Reported], browser: Browser):
    """Whatever were smuggled into it."""
    browser.open((reports["table"].folder / "report.html").as_uri())
    script = "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    browser.evaluate(script)
    image = "new Promise(done => { const i = new Image(); i.onerror = done; i.src = 'http://127.0.0.1:9/x.png' })"
    browser.evaluate(image)
    assert browser.evaluate("window.ran === undefined")
    violations = [str(complaint) for complaint in browser.complaints()]
    assert len(violations) == 2
    assert all("Content Security Policy" in violation for violation in violations)
