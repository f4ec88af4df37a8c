"""hourglass-train evaluate: its numbers, recomputed with numpy and onnxruntime from the published files alone."""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hourglass.contract import layout
from hourglass.contract.manifest import DECODER, ENCODER, MODEL, Array
from tests import artefacts
from training import __main__ as program
from training import data, detection, disentanglement, evaluation, sprites
from training.__main__ import main
from training.config import FitConfig
from training.disentanglement import Embeddings
from training.errors import ConfigError
from training.evaluation import classification, factors, subject
from training.evaluation.published import open_model
from training.evaluation.rows import MIN_LABEL_ROWS, read
from training.evaluation.subject import Sample, Subject
from training.fit import fit
from training.probe import Labelled
from training.progress import Progress

Config = Callable[..., FitConfig]
Evaluate = Callable[..., dict[str, Any]]

DIGITS = load_digits()
IMAGES = DIGITS.images.astype(np.float32)


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """The numbers of a command that ends well; what it printed is under 'printed'."""

    def run(*arguments: object) -> dict[str, Any]:
        report = tmp_path / "report.json"
        capsys.readouterr()
        assert main(["evaluate", *map(str, arguments), "--json", str(report)]) == 0, capsys.readouterr().err
        return {**json.loads(report.read_text()), "printed": capsys.readouterr().out}

    return run


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "_LEAST_STEPS", 50)


def answers(folder: Path, file: str, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession((folder / file).read_bytes())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: batch}), strict=True))


def run_of(published: Path) -> Path:
    (run,) = (published.parent.parent.parent / "runs" / published.parent.name).iterdir()
    return run


def parted() -> tuple[np.ndarray, np.ndarray]:
    """Positions of the digits that trained or stopped the model `published`, and of the last fifth of one shuffle."""
    order = np.random.default_rng(0).permutation(len(IMAGES))
    learned, held = np.split(order, [round(0.7 * len(IMAGES)) + round(0.1 * len(IMAGES))])
    return np.sort(learned), np.sort(held)


def held_out() -> np.ndarray:
    return parted()[1]


def halves(labels: np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    fitted, tested = train_test_split(np.arange(n), test_size=0.3, random_state=0, stratify=labels)
    return fitted, tested


def test_reconstruction_is_that_of_rows_the_weights_never_saw(published: Path, evaluate: Evaluate):
    found = evaluate(published)
    x = IMAGES[held_out()]
    difference = (x - answers(published, MODEL, x)["reconstruction"]).astype(np.float64)
    reconstruction = found["reconstruction"]
    assert found["data"] == {
        "source": "digits",
        "rows_read": 1797,
        "rows": 359,
        "sampled_rows": 359,
        "excluded_rows": 0,
        "fitted_rows": "left out",
    }
    assert "359 rows of digits: of 1,797, without those that trained the model (1,258)" in found["printed"]
    assert "counted as fresh" not in found["printed"]
    sse = ((difference / 16) ** 2).sum(axis=(1, 2)).mean()
    assert reconstruction["reconstruction_sse_per_row"] == pytest.approx(sse, rel=1e-5)
    assert reconstruction["reconstruction_mse_per_feature"] == pytest.approx(sse / 64, rel=1e-5)
    assert reconstruction["rmse_in_input_units"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)
    explained = 1 - sse / (x / 16).var(axis=0).sum()
    assert reconstruction["variance_explained"] == pytest.approx(explained, rel=1e-4)
    # The card's numbers, of the same rows.
    metrics = layout.read(published.parent.parent, "digits", 1).manifest.provenance.metrics
    assert reconstruction["reconstruction_sse_per_row"] == pytest.approx(metrics["reconstruction_sse_per_row"])


def damaged(x: np.ndarray, kind: str, level: float, rng: np.random.Generator) -> np.ndarray:
    """Vincent et al. 2010, section 3.3, of images in [0, 1]."""
    chance = rng.random(x.shape)
    if kind == "masking":
        return np.where(chance < level, 0, x)
    if kind == "gaussian":
        return x + level * rng.standard_normal(x.shape)
    return np.where(chance < level, rng.integers(2, size=x.shape), x)


def test_denoising_gains_are_those_of_other_damage_of_the_same_kind(published: Path, evaluate: Evaluate):
    found = evaluate(published)["denoising"]
    x, rng = IMAGES[held_out()] / 16, np.random.default_rng(1)
    assert {kind: list(levels) for kind, levels in found.items()} == {
        kind: ["0.1", "0.25", "0.5"] for kind in ("masking", "gaussian", "salt_and_pepper")
    }
    for kind, levels in found.items():
        for level, numbers in levels.items():
            noisy = damaged(x, kind, float(level), rng).astype(np.float32)
            clean = answers(published, MODEL, 16 * noisy)["reconstruction"] / 16
            gain = 10 * math.log10(((noisy - x) ** 2).mean() / ((clean - x) ** 2).mean())
            assert numbers["gain_db"] == pytest.approx(gain, abs=0.3), (kind, level)
            assert numbers["damaged_mse"] == pytest.approx(((noisy - x) ** 2).mean(), rel=0.06)


def pca_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [features], and 8 directions [8, features]."""
    mean = rows.mean(axis=0)
    return mean, np.linalg.svd(rows - mean, full_matrices=False)[2][:8]


@pytest.mark.parametrize("fitted_file", [True, False], ids=["the fitted file", "another file"])
def test_compression_is_compared_with_pca_of_the_rows_that_the_model_learned_from(
    fitted_file: bool, published: Path, evaluate: Evaluate, tmp_path: Path
):
    learned, held = parted()
    x = IMAGES[held]
    fitted, tested = halves(None, len(x))
    flat, seen = (rows.reshape(len(rows), -1).astype(np.float64) / 16 for rows in (x, IMAGES[learned]))
    if fitted_file:
        everything = evaluate(published)
        mean, basis = pca_of(seen)
        said = "PCA learned from 1,438 rows that the model learned from."
    else:
        np.save(tmp_path / "fresh.npy", x)
        everything = evaluate(published, "--data", tmp_path / "fresh.npy")
        mean, basis = pca_of(flat[fitted])
        said = f"PCA learned from 251 other rows of {tmp_path}/fresh.npy."
    assert "".join(said.split()) in "".join(everything["printed"].split())
    found = everything["compression"]
    embedding = answers(published, ENCODER, x[tested])["embedding"]
    assert found["row_bytes"] == 64
    for precision, size in (("float32", 4), ("float16", 2)):
        kept = embedding.astype(precision).astype(np.float32)
        repeated = answers(published, DECODER, kept)["reconstruction"] / 16
        components = ((flat[tested] - mean) @ basis.T).astype(precision).astype(np.float64)
        by_pca = components @ basis + mean
        assert found[precision]["embedding_bytes"] == found[precision]["pca_bytes"] == 8 * size
        assert found[precision]["embedding_mse"] == pytest.approx(((x[tested] / 16 - repeated) ** 2).mean(), rel=1e-4)
        assert found[precision]["pca_mse"] == pytest.approx(((flat[tested] - by_pca) ** 2).mean(), rel=1e-4)


def test_pca_learns_from_no_more_rows_than_a_sample_has(published: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(detection, "MOST_ROWS", 100)
    monkeypatch.setattr(detection, "_FEWEST", 100)
    model = open_model(published)
    sample = Sample.of(read("digits", model.manifest, None), model)
    seen = {row.tobytes() for row in IMAGES[parted()[0]].reshape(-1, 64) / 16}
    assert sample.pca_rows.shape == (100, 64)
    assert {row.tobytes() for row in sample.pca_rows} <= seen
    mean, basis = pca_of(sample.pca_rows.astype(np.float64))
    np.testing.assert_allclose(sample.pca.mean_, mean, atol=1e-9)
    np.testing.assert_allclose(sample.pca.components_.T @ sample.pca.components_, basis.T @ basis, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(MIN_LABEL_ROWS, 60), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_enough_rows_of_each_label_can_always_be_divided_twice(counts: list[int], random: Any):
    cells = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(cells)
    labels = np.array(cells)
    fitted, tested = subject.divide(np.arange(len(labels)), subject.TEST_SHARE, labels)
    learned, chosen = subject.divide(fitted, classification._VALIDATION_SHARE, labels[fitted])
    assert sorted(np.concatenate([learned, chosen, tested])) == list(range(len(labels)))
    assert len(tested) == max(len(counts), math.ceil(0.3 * len(labels)))
    assert len(chosen) == max(len(counts), math.ceil(len(fitted) / 7))
    for part in (learned, tested):
        assert set(labels[part]) == set(labels)


@pytest.mark.parametrize(("rows", "classes"), [(10, 2), (60, 10), (100, 20)])
def test_few_rows_of_many_labels_are_classified(
    rows: int, classes: int, tmp_path: Path, evaluate: Evaluate, few_steps: None
):
    artefacts.publish(tmp_path / "exported", "m", columns=list("abcd"))
    x = np.random.default_rng(0).normal(size=(rows, 4))
    file = write(tmp_path / "t.csv", x, "a,b,c,d,y", np.arange(rows) % classes)
    assert evaluate(tmp_path / "exported/m", "--data", file, "--label", "y")["classification"]["classes"] == classes


def test_probes_see_the_published_embeddings_and_each_row_in_one_part(
    published: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[Labelled, ...]] = []

    class Probe(NamedTuple):
        train: Labelled
        validation: Labelled

        def error(self, rows: Labelled) -> float:
            seen.append((self.train, self.validation, rows))
            return 0.25

    def probe(train: Labelled, validation: Labelled, seed: int, settings: object) -> Probe:
        return Probe(train, validation)

    monkeypatch.setattr(classification, "linear_probe", probe)
    found = evaluate(published, "--label", "label")["classification"]
    assert found["rows"] == {"learned": 215, "chosen": 36, "tested": 108}
    assert found["test_error"]["linear_probe_embedding"] == 0.25
    kept = held_out()
    embedding = answers(published, ENCODER, IMAGES[kept])["embedding"]
    raw, _, embedded = seen
    for parts, expected in ((raw, IMAGES[kept].reshape(-1, 64) / 16), (embedded, embedding)):
        where = [np.argmin(np.abs(part.rows.numpy()[:, None] - expected).sum(axis=2), axis=1) for part in parts]
        assert sorted(np.concatenate(where)) == list(range(359))
        np.testing.assert_allclose(np.concatenate([part.rows for part in parts]), expected[np.concatenate(where)])
        for part, positions in zip(parts, where, strict=True):
            np.testing.assert_array_equal(part.labels, DIGITS.target[kept][positions])
    assert np.bincount(raw[2].labels).tolist() == pytest.approx(0.3 * np.bincount(DIGITS.target[kept]), abs=1)


def test_fine_tuning_with_the_run_beats_frozen_embeddings(published: Path, evaluate: Evaluate):
    found = evaluate(published, "--label", "label", "--run", run_of(published))["classification"]
    error = found["test_error"]
    assert error["fine_tuned"] < error["linear_probe_embedding"] < error["commonest_label"]
    assert error["commonest_label"] == pytest.approx(0.9, abs=0.05)
    assert error["linear_probe_raw"] < 0.15


def write(file: Path, x: np.ndarray, header: str, extra: np.ndarray | None = None) -> Path:
    table = x if extra is None else np.column_stack([x.astype(object), extra])
    lines = [",".join(map(str, row)) for row in table.tolist()]
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def test_labels_that_an_embedding_keeps_are_told_and_those_it_drops_are_not(
    tmp_path: Path, evaluate: Evaluate, few_steps: None
):
    """embedding = the first two of four columns: a closed form of what can be known from it."""
    weights = np.eye(4, 2, dtype=np.float32)
    artefacts.publish(tmp_path / "exported", "two", artefacts.Linear(weights), columns=list("abcd"))
    x = np.random.default_rng(0).normal(size=(600, 4))
    for column, error in ((0, 0.0), (3, 0.5)):
        file = write(tmp_path / "t.csv", x, "a,b,c,d,y", np.where(x[:, column] > 0, "up", "down"))
        found = evaluate(tmp_path / "exported/two", "--data", file, "--label", "y")["classification"]["test_error"]
        assert found["linear_probe_embedding"] == pytest.approx(error, abs=0.05 if not error else 0.12)
        assert found["linear_probe_raw"] < 0.05


def test_columns_are_found_by_name_and_the_others_left_out(tmp_path: Path, evaluate: Evaluate):
    artefacts.publish(tmp_path / "exported", "m", columns=list("abcd"))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    one = evaluate(tmp_path / "exported/m", "--data", write(tmp_path / "one.csv", x, "a,b,c,d"))
    swapped = write(tmp_path / "two.csv", x[:, [2, 0, 3, 1]], "c,a,d,b,note", np.full(50, "text"))
    two = evaluate(tmp_path / "exported/m", "--data", swapped)
    assert one["reconstruction"] == two["reconstruction"]
    expected = artefacts.Linear.random().answers(x)["feature_error"].mean(axis=0)
    assert list(one["reconstruction"]["mse_in_scaled_units"]) == list("abcd")
    assert list(one["reconstruction"]["mse_in_scaled_units"].values()) == pytest.approx(expected, rel=1e-5)
    assert list(one["reconstruction"]["rmse_in_input_units"].values()) == pytest.approx(np.sqrt(expected), rel=1e-5)
    assert one["data"]["fitted_rows"] == "none known"
    said = "Not the file that the model was fitted on (standard normal rows): rows that are in both are"
    assert said in " ".join(one["printed"].split())


def test_a_model_that_copies_gains_nothing_and_compresses_nothing(tmp_path: Path, evaluate: Evaluate):
    artefacts.publish(tmp_path / "exported", "copy", artefacts.Linear(np.eye(3, dtype=np.float32)))
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(100, 3)))
    found = evaluate(tmp_path / "exported/copy", "--data", tmp_path / "t.npy")
    assert found["reconstruction"]["reconstruction_sse_per_row"] == 0
    assert found["reconstruction"]["variance_explained"] == 1
    gains = [level["gain_db"] for levels in found["denoising"].values() for level in levels.values()]
    assert gains == pytest.approx([0] * 9, abs=1e-9)
    assert found["compression"]["float32"]["embedding_mse"] == 0
    assert 0 < found["compression"]["float16"]["embedding_mse"] < 1e-6
    assert "compresses nothing" in found["printed"]


def test_what_float16_cannot_hold_is_no_number(tmp_path: Path, evaluate: Evaluate):
    artefacts.publish(tmp_path / "exported", "large", artefacts.Linear(np.full((3, 1), 1e6, dtype=np.float32)))
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(100, 3)))
    found = evaluate(tmp_path / "exported/large", "--data", tmp_path / "t.npy")
    assert found["compression"]["float16"]["embedding_mse"] is None
    assert "PCA loses less in as many bytes (float32, float16)" in found["printed"]


def test_nothing_is_gained_where_nothing_was_damaged(tmp_path: Path, evaluate: Evaluate):
    artefacts.publish(tmp_path / "exported", "m", artefacts.Linear.random(width=3))
    np.save(tmp_path / "t.npy", np.zeros((20, 3)))
    found = evaluate(tmp_path / "exported/m", "--data", tmp_path / "t.npy")
    assert found["denoising"]["masking"]["0.5"] == {"damaged_mse": 0, "denoised_mse": 0, "gain_db": None}
    assert found["reconstruction"]["variance_explained"] is None


def test_more_rows_than_needed_are_sampled_but_for_the_reconstruction(
    tmp_path: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.detection.MOST_ROWS", 100)
    monkeypatch.setattr("training.detection._FEWEST", 100)
    artefacts.publish(tmp_path / "exported", "m")
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    np.save(tmp_path / "t.npy", x)
    found = evaluate(tmp_path / "exported/m", "--data", tmp_path / "t.npy")
    assert (found["data"]["rows"], found["data"]["sampled_rows"]) == (1000, 100)
    everything = artefacts.Linear.random().answers(x)["reconstruction_error"].mean()
    assert found["reconstruction"]["reconstruction_mse_per_feature"] == pytest.approx(everything, rel=1e-5)
    assert "of 100 rows" in found["printed"]


def test_rows_left_out_of_a_fit_by_label_are_evaluated(config: Config, tmp_path: Path, quiet: Progress):
    """The normal rows that calibrated the model, and every row it was kept from."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)).astype(np.float32), np.arange(200) % 4 == 0
    np.savez(tmp_path / "t.npz", X=x, y=y.astype(int))
    folder = fit(config(data=str(tmp_path / "t.npz"), name="t", label="y", exclude_label="1", epochs=1), quiet)
    found = read(str(tmp_path / "t.npz"), open_model(folder).manifest, "y")
    assert found.fitted_rows == "left out"
    normal = np.flatnonzero(~y)
    order = np.random.default_rng(0).permutation(150)
    kept = np.sort(np.concatenate([normal[order[120:]], np.flatnonzero(y)]))
    np.testing.assert_array_equal(found.rows, x[kept])
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels.numbers, y[kept])
    np.testing.assert_array_equal(found.excluded, y[kept])
    subject = Subject.of(open_model(folder), found)
    np.testing.assert_array_equal(subject.data.rows, x[kept][~y[kept]])  # what the model is for
    assert subject.labelled
    np.testing.assert_array_equal(subject.labelled.data.rows, x[kept])
    x[0] += 1
    np.savez(tmp_path / "t.npz", X=x, y=y.astype(int))
    assert read(str(tmp_path / "t.npz"), open_model(folder).manifest, None).fitted_rows == "left out"  # row 0 was not
    x[1] += 1
    np.savez(tmp_path / "t.npz", X=x, y=y.astype(int))
    assert read(str(tmp_path / "t.npz"), open_model(folder).manifest, None).fitted_rows == "none known"


def test_rows_that_trained_a_model_split_otherwise_are_said_to(published: Path, tmp_path: Path, evaluate: Evaluate):
    folder = tmp_path / "exported" / "digits" / "1"
    shutil.copytree(published, folder)
    content = json.loads((folder / "manifest.json").read_text())
    content["provenance"]["rows"] = {"train": 1500, "early_stop": 148, "calibration": 149}
    (folder / "manifest.json").write_text(json.dumps(content))
    found = evaluate(folder)
    assert (found["data"]["rows"], found["data"]["fitted_rows"]) == (1797, "included")
    assert "among them those that trained the model: it will do worse on others" in " ".join(found["printed"].split())


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    flags = ["--variant=vae", "--hidden=32", "--embedding-dim=4", "--epochs=10", "--batch-size=64"]
    folders = ["--exported", str(folder / "exported"), "--runs", str(folder / "runs")]
    assert main(["fit", "--data=digits", "--name=vae", *flags, *folders]) == 0
    return folder / "exported" / "vae" / "1"


def test_the_elbo_is_that_of_the_published_graphs(vae: Path, evaluate: Evaluate):
    found = evaluate(vae, "--run", run_of(vae), "--samples=200")["likelihood"]
    assert (found["rows"], found["samples"]) == (359, 200)
    x = IMAGES[held_out()]
    embedded = answers(vae, ENCODER, x)
    mean, stddev = (embedded[name].astype(np.float64) for name in ("embedding", "embedding_stddev"))
    kl = 0.5 * (mean**2 + stddev**2 - 1 - 2 * np.log(stddev)).sum(axis=1)
    rng, grey = np.random.default_rng(1), x.astype(np.float64) / 16
    errors = []
    for _ in range(20):
        drawn = (mean + stddev * rng.standard_normal(mean.shape)).astype(np.float32)
        white = np.clip(answers(vae, DECODER, drawn)["reconstruction"] / 16, 1e-7, 1 - 1e-6)
        errors.append(-(grey * np.log(white) + (1 - grey) * np.log(1 - white)).sum(axis=(1, 2)))
    elbo = np.mean(errors, axis=0) + kl
    assert found["negative_elbo_nats_per_row"] == pytest.approx(elbo.mean(), abs=0.1)
    assert found["negative_elbo_standard_error"] == pytest.approx(elbo.std() / math.sqrt(359), rel=0.05)
    assert elbo.mean() - 5 < found["negative_log_likelihood_nats_per_row"] < elbo.mean() - 0.1


def test_more_samples_give_a_lower_bound(vae: Path, evaluate: Evaluate):
    one, many = (evaluate(vae, "--run", run_of(vae), f"--samples={k}")["likelihood"] for k in (1, 50))
    assert one["negative_log_likelihood_nats_per_row"] == pytest.approx(one["negative_elbo_nats_per_row"], abs=0.3)
    assert many["negative_log_likelihood_nats_per_row"] < one["negative_log_likelihood_nats_per_row"] - 0.1


def test_without_its_run_a_vae_has_no_likelihood(vae: Path, evaluate: Evaluate):
    found = evaluate(vae)
    assert "likelihood" not in found
    assert "-log p(x)" not in found["printed"]


def test_sprites_measure_disentanglement(
    tmp_path: Path,
    config: Config,
    quiet: Progress,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    few_steps: None,
):
    monkeypatch.setattr(sprites, "COUNT", 16 * 256)  # of which --data sprites takes a sixteenth
    sizes = {"_POINTS": 40, "_TEST_POINTS": 20, "_IMAGES": 8, "_DRAWN": 300, "_TEST_DRAWN": 100}
    for name, size in sizes.items():
        monkeypatch.setattr(factors, name, size)
    np.save(tmp_path / "s.npy", sprites.images(np.random.default_rng(1).integers(sprites.COUNT, size=300)))
    settings = {"data": str(tmp_path / "s.npy"), "name": "s", "variant": "vae", "epochs": 1, "embedding_dim": 3}
    folder = fit(config(**settings), quiet)
    found = evaluate(folder, "--data", "sprites", "--label", "orientation")
    assert found["data"]["rows"] == 256
    assert found["classification"]["classes"] == 4
    embeddings = Embeddings(lambda images: answers(folder, ENCODER, images.astype(np.float32))["embedding"])
    scores = found["disentanglement"]
    assert scores["higgins"] == disentanglement.higgins(embeddings, 0, 40, 20, 8)
    assert scores["factor_vae"] == disentanglement.factor_vae(embeddings, 0, 40, 20, 8)
    assert scores["mig"] == pytest.approx(disentanglement.mig(embeddings, 0, 300))
    assert scores["sap"] == pytest.approx(disentanglement.sap(embeddings, 0, 300, 100))
    assert "40 + 20 points of 8 pairs" in found["printed"]

    manifest = open_model(folder).manifest
    wide = manifest.scaling.model_copy(update={"scale": Array.pack(np.array(255.0))})
    with pytest.raises(data.DataError, match="fitted on images of another range"):
        read("sprites", manifest.model_copy(update={"scaling": wide}), None)


@pytest.mark.parametrize("width", [80, 100])
def test_what_is_printed_fits_a_terminal(
    width: int, tmp_path: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, few_steps: None
):
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["temperature [C]", "b :warning:", "c", "d"]
    artefacts.publish(tmp_path / "exported", "m", columns=names)
    x = np.random.default_rng(0).normal(size=(60, 4)) * 1e6
    file = write(tmp_path / "t.csv", x, ",".join([*names, "kind"]), np.arange(60) % 2)
    printed = evaluate(tmp_path / "exported/m", "--data", file, "--label", "kind")["printed"]
    assert max(map(len, printed.splitlines())) <= width
    assert "temperature [C]" in printed
    assert "b :warning:" in printed


GOOD = "a,b,c,d,y,e\n" + "".join(f"{i},{i % 3},{i % 5},{i % 7},{i % 2},{i % 4}\n" for i in range(40))
BAD_DATA = {
    "unknown label": (GOOD, ["--label=yy"], r"t\.csv: no column 'yy': did you mean 'y'"),
    "a label the model takes": (GOOD, ["--label=a"], "--label a is a column that the model takes"),
    "no such column": (GOOD.replace("c,d", "c,dd"), [], r"t\.csv: no column 'd': did you mean 'dd'"),
    "text": (GOOD + "1,2,x,4,5,6\n", [], r"t\.csv, line 42, column 'c': 'x' is not a number"),
    "too few rows": ("a,b,c,d\n" + "1,2,3,4\n" * 9, [], r"t\.csv: 9 rows to evaluate on, but at least 10"),
    "one class": ("a,b,c,d,y\n" + "1,2,3,4,0\n" * 20, ["--label=y"], "every y is '0': nothing to tell apart"),
    "a rare class": (GOOD + "1,2,3,4,rare,1\n", ["--label=y"], r"y is 'rare' in 1 of 41 rows \(3 different"),
    "nothing of the fitted kind": (
        "a,b,c,d,y\n" + "1,2,3,4,x\n" * 20,
        [],
        r"t\.csv: 0 rows .*, without 20 whose label the",
    ),
    "no label": (GOOD + "1,2,3,4,,1\n", ["--label=y"], r"t\.csv, row 40 \(the first is 0\): no y"),
}


def fitted_without_x(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    content["provenance"]["config"] = {"label": "y", "exclude_label": ["x"]}
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_get_one_clear_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, flags, says = BAD_DATA[kind]
    artefacts.publish(tmp_path / "exported", "m", columns=list("abcd"), damage=fitted_without_x)
    (tmp_path / "t.csv").write_text(text)
    assert re.search(
        says, refusal(["evaluate", str(tmp_path / "exported/m"), "--data", str(tmp_path / "t.csv"), *flags], capsys)
    )


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that a command of exit code 2 says."""
    capsys.readouterr()
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    last = streams.err.splitlines()[-1]
    assert last.startswith("hourglass-train: error: ")
    return last


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exported/pumsp"], "pumsp: no published model .did you mean pumps"),
        (["exported/pumps/7"], "pumps/7: manifest.json is missing"),
        (["exported/Pumps"], "'Pumps' is not a model name"),
        (["elsewhere/pumps"], "elsewhere/pumps: no published model"),
        (["exported/pumps"], "--data FILE is missing.*it was fitted on standard normal rows"),
        (["exported/pumps", "--data=absent.csv"], "absent.csv: no such file"),
        (["exported/pumps", "--data=digits"], "digits: rows of 8 × 8, but the model takes 4"),
        (["exported/pumps", "--data=sprites"], "sprites: rows of 64 × 64, but the model takes 4"),
        (["exported/pumps", "--data=wide.npy"], "wide.npy: rows of 5, but the model takes 4"),
        (["exported/pumps", "--data=t.npy", "--run=absent"], "absent: not a run"),
        (["exported/pumps", "--data=t.npy", "--samples=0"], "'0' is not a whole number from 1 on"),
        (
            ["exported/pumps", "--data=t.npy", "--json=absent/x.json"],
            "absent/x.json: not a file in a folder that exists",
        ),
        (["exported/pumps", "--data=t.npy", "--json=exported"], "exported: not a file in a folder"),
        (["exported/pumps", "--data=t.npy", "--json=/dev/null"], "/dev/null: not a file in a folder"),
        (["exported/pumps", "--data=t.npy", "--json=exported/pumps/1/x.json"], "a published version is never changed"),
        (["exported/pumps", "--data=t.npy", "--json=exported/broken/1/manifest.json"], "a published version is never"),
        (["exported/pumps", "--data=t.npy", "--json=exported/x.json"], "a published version is never changed"),
        (["exported/pumps", "--data=t.npy", "--json=others/pumps/1/x.json"], "a published version is never changed"),
        (["exported/pumps", "--data=t.npy", "--json=link/1/manifest.json"], "a published version is never changed"),
        (["exported/broken", "--data=t.npy"], "broken/1: model.onnx has .* bytes"),
        ([], "exported/NAME"),
    ],
)
def test_a_wrong_command_gets_one_clear_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    artefacts.publish(tmp_path / "exported", "pumps")
    artefacts.publish(tmp_path / "others", "pumps")
    (tmp_path / "link").symlink_to(tmp_path / "exported" / "pumps")
    artefacts.publish(tmp_path / "exported", "broken", damage=lambda folder: (folder / MODEL).write_bytes(b"x"))
    np.save("t.npy", np.ones((20, 4)))
    np.save("wide.npy", np.ones((20, 5)))
    assert re.search(says, refusal(["evaluate", *arguments], capsys))


def test_the_newest_version_is_taken_unless_one_is_named(tmp_path: Path, evaluate: Evaluate):
    for seed in range(11):
        artefacts.publish(tmp_path / "exported", "m", artefacts.Linear.random(seed=seed))
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(20, 4)))
    for path, version in (("m", 11), ("m/2", 2)):
        found = evaluate(tmp_path / "exported" / path, "--data", tmp_path / "t.npy")
        linear = artefacts.Linear.random(seed=version - 1)
        expected = linear.answers(np.load(tmp_path / "t.npy"))["reconstruction_error"].mean()
        assert found["model"]["version"] == version
        assert found["reconstruction"]["reconstruction_mse_per_feature"] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_the_model_did_not_come_from_is_refused(
    published: Path, vae: Path, tmp_path: Path, config: Config, quiet: Progress, capsys: pytest.CaptureFixture[str]
):
    for other in (vae, fit(config(epochs=1, seed=1), quiet)):
        assert re.search(
            "do not give the answers of", refusal(["evaluate", str(published), "--run", str(run_of(other))], capsys)
        )
    artefacts.publish(tmp_path / "exported", "linear")
    arguments = ["evaluate", str(tmp_path / "exported/linear"), "--run", str(run_of(published))]
    assert re.search("learned from other rows than .*linear/1", refusal(arguments, capsys))


def test_a_run_brings_its_data(tmp_path: Path, config: Config, quiet: Progress, evaluate: Evaluate):
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(50, 4)))
    folder = fit(config(epochs=1, name="t", data=str(tmp_path / "t.npy")), quiet)
    found = evaluate(folder, "--run", run_of(folder))
    assert found["data"]["rows_read"] == 50


def test_a_run_whose_data_are_gone_asks_for_them(
    tmp_path: Path, config: Config, quiet: Progress, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
):
    rows = np.random.default_rng(0).normal(size=(50, 4))
    np.save(tmp_path / "t.npy", rows)
    folder = fit(config(epochs=1, name="t", data=str(tmp_path / "t.npy")), quiet)
    (tmp_path / "t.npy").rename(tmp_path / "moved.npy")
    says = r"--data FILE is missing: rows to evaluate .*t/1 on; it was fitted on .*t\.npy, which is not there$"
    assert re.search(says, refusal(["evaluate", str(folder), "--run", str(run_of(folder))], capsys))
    found = evaluate(folder, "--run", run_of(folder), "--data", tmp_path / "moved.npy")
    assert found["data"]["fitted_rows"] == "left out"


def test_on_a_full_disk_the_earlier_numbers_stay(tmp_path: Path):
    report = tmp_path / "report.json"
    evaluation._write(report, {"a": {"b": 1}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ConfigError, match=r"report\.json: cannot be written: File too large"):
            evaluation._write(report, {"a": {str(number): number for number in range(1000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads(report.read_text()) == {"a": {"b": 1}}
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("_fit", ["--data=digits", "--name=d"], "interrupted: hourglass-train fit --resume RUN continues\n"),
        ("_reproduce", ["all"], "interrupted: run the same command again: it goes on\n"),
        ("_evaluate", ["exported/d"], "interrupted\n"),
        ("_export", ["--run=r"], "interrupted\n"),
    ],
)
def test_an_interruption_says_how_to_go_on_where_one_can(
    command: str,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def interrupt(_parsed: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, command, interrupt)
    assert main([command[1:], *arguments]) == 130
    assert capsys.readouterr().err == says
