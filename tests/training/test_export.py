"""The artefact: what is in it, that it is torch's model, and that nothing less is ever published."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

import training.export
import training.fit
import training.graphs
from hourglass.contract import layout
from hourglass.contract.layout import Artefact
from hourglass.contract.manifest import DECODER, ENCODER, GRAPHS, MODEL
from hourglass.contract.quantization import Quantizations
from training import checkpoint, data
from training.autoencoder import Autoencoder
from training.config import FitConfig
from training.errors import ExportError
from training.fit import build, export_run, fit
from training.golden import golden_rows
from training.graphs import Served
from training.progress import Progress
from training.run import Run
from training.scaling import Scaling

Config = Callable[..., FitConfig]
DIGITS = load_digits().images.astype(np.float32)


def run_of(published: Path) -> Run:
    exported, name = published.parent.parent, published.parent.name
    (folder,) = (exported.parent / "runs" / name).iterdir()
    return Run.open(folder)


def read(published: Path, files: tuple[str, ...] = tuple(GRAPHS)) -> Artefact:
    return layout.read(published.parent.parent, published.parent.name, int(published.name), files)


def answers(artefact: Artefact, file: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(artefact.files[file])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: rows}), strict=True))


def served_of(run: Run) -> Served:
    dataset = data.load(run.config)
    model = build(run.config, dataset.row_shape)
    checkpoint.load_best(run.checkpoint, model)
    splits = data.split(dataset, run.config.seed)
    return Served(Scaling.of(splits.train), model, model.score()).eval()


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_three_graphs_agree_with_torch_and_each_other(published: Path):
    artefact, served = read(published), served_of(run_of(published))
    whole = answers(artefact, MODEL, DIGITS)
    with torch.inference_mode():
        for name, value in served(torch.from_numpy(DIGITS)).items():
            spread = 16 if name == "reconstruction" else 1
            assert_close(whole[name] / spread, value.numpy() / spread)
    embedding = answers(artefact, ENCODER, DIGITS)["embedding"]
    assert_close(embedding, whole["embedding"])
    assert_close(answers(artefact, DECODER, embedding)["reconstruction"] / 16, whole["reconstruction"] / 16)


def test_the_score_is_the_mean_squared_error_in_scaled_units(published: Path):
    whole = answers(read(published), MODEL, DIGITS)
    feature_error = ((DIGITS - whole["reconstruction"]) / 16) ** 2
    assert_close(whole["feature_error"], feature_error)
    assert_close(whole["score"], feature_error.mean(axis=(1, 2)))
    assert_close(whole["reconstruction_error"], whole["score"])


def test_int8_and_binary_embeddings_are_calibrated_on_the_calibration_rows(published: Path):
    artefact, run = read(published), run_of(published)
    calibration = data.split(data.load(run.config), run.config.seed).calibration.numpy()
    expected = Quantizations.of(answers(artefact, MODEL, calibration)["embedding"])
    kept = artefact.manifest.quantization
    assert kept
    for one, other in ((kept.plain, expected.plain), (kept.normalized, expected.normalized)):
        assert one.scale == pytest.approx(other.scale, rel=1e-4)
        assert_close(one.thresholds.unpack(), other.thresholds.unpack())


def test_clipped_numbers_are_counted(published: Path):
    rows = DIGITS[:3].copy()
    rows[1, 0, :5] = 1e6
    rows[2, 3, 3], rows[2, 4] = -3e38, 1e3
    rows[0, 0, 0] = 2 * 16  # at the end of what is kept: not changed, so not counted
    whole = answers(read(published), MODEL, rows)
    assert whole["clipped"].tolist() == [0, 5, 9]
    assert whole["clipped"].dtype == np.float32


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_rows_are_answered_alike_in_any_batch(published: Path, size: int):
    artefact = read(published)
    alone, batch = answers(artefact, MODEL, DIGITS[:1]), answers(artefact, MODEL, DIGITS[:size])
    for name, value in batch.items():
        assert len(value) == size
        assert_close(value[:1] / 16, alone[name] / 16)


def test_a_row_of_nan_spoils_no_other(published: Path):
    rows = DIGITS[:5].copy()
    rows[2] = np.nan
    artefact = read(published)
    clean, spoilt = answers(artefact, MODEL, DIGITS[:5]), answers(artefact, MODEL, rows)
    for name, value in spoilt.items():
        assert np.isnan(value[2]).any() or name == "clipped", name
        assert_close(value[[0, 1, 3, 4]], clean[name][[0, 1, 3, 4]])


def test_graphs_are_clean_and_fixed(published: Path):
    for name, content in read(published).files.items():
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert {node.op_type for node in model.graph.node}.isdisjoint(training.graphs._RANDOM)
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        assert not model.metadata_props
        assert not any(value.metadata_props for value in values)
        for leak in (b"/home", b"/root", b"site-packages", b".py", str(Path.cwd()).encode()):
            assert leak not in content, (name, leak)


def test_the_manifest_says_what_the_files_are(published: Path):
    manifest = read(published).manifest
    for name, entry in manifest.files.items():
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == entry.sha256
    assert sorted(file.name for file in published.iterdir()) == sorted(
        [*GRAPHS, "manifest.json", "README.md", "report.html"]
    )
    assert manifest.variant == "denoising"
    assert manifest.row_shape == [8, 8]
    assert manifest.columns is None
    provenance = manifest.provenance
    assert provenance.rows == {"train": 1258, "early_stop": 180, "calibration": 359}
    assert provenance.data_sha256 == data.load(run_of(published).config).sha256
    options = provenance.config["options"]
    assert (options["noise"], options["noise_level"], options["loss"]) == ("masking", 0.25, "mse")  # defaults filled in
    assert str(published.parent.parent.parent) not in manifest.model_dump_json()


def test_the_calibration_is_of_rows_that_training_did_not_see(published: Path):
    artefact, run = read(published), run_of(published)
    splits = data.split(data.load(run.config), run.config.seed)
    scores = answers(artefact, MODEL, splits.calibration.numpy())["score"]
    calibration = artefact.manifest.calibration
    np.testing.assert_allclose(calibration.scores, 1.0001 * np.sort(scores.astype(np.float64)), rtol=1e-6)
    assert calibration.false_alarm_rate == 0.01
    assert (scores > calibration.threshold(0.01)).mean() <= 0.01
    feature_error = answers(artefact, MODEL, splits.calibration.numpy())["feature_error"].reshape(359, -1)
    metrics = artefact.manifest.provenance.metrics
    assert metrics["reconstruction_sse_per_row"] == pytest.approx(feature_error.sum(axis=1).mean(), rel=1e-4)
    assert metrics["reconstruction_mse_per_feature"] == pytest.approx(feature_error.mean(), rel=1e-4)


def test_golden_rows_are_answered_within_their_tolerance_and_are_nobodys(published: Path):
    artefact = read(published)
    golden = artefact.manifest.golden
    rows = golden.input.unpack()
    assert len(rows) == 8
    for name, value in answers(artefact, MODEL, rows).items():
        tolerance = golden.tolerance["float32"][name]
        np.testing.assert_allclose(value, golden.outputs[name].unpack(), tolerance.rtol, tolerance.atol)
    drawn = rows[:5].reshape(5, -1)
    assert (np.abs(DIGITS.reshape(-1, 1, 64) - drawn[None]).max(axis=2) > 0).all()


def test_golden_rows_cover_the_quantiles_and_both_ends():
    calibration = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    scaling = Scaling.of(calibration)
    rows = golden_rows(calibration, scaling, seed=3)
    assert rows.equal(golden_rows(calibration, scaling, seed=3))
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    quantiles = torch.quantile(calibration, shares, dim=0, interpolation="nearest")  # codes of categories stay codes
    assert all(rows[i, j] in quantiles[:, j] for i in range(5) for j in range(4))
    assert rows[5].tolist() == [0.0] * 4
    assert scaling(rows[6:]).tolist() == [[-10.0] * 4, [10.0] * 4]


def test_the_card_is_for_people(published: Path):
    card = (published / "README.md").read_text()
    assert card.startswith("# digits\n")
    for words in ("denoising", "mean over features of", "1,258", "hourglass-serve --exported", "noise_level | 0.25"):
        assert words in card
    threshold = read(published).manifest.calibration.threshold(0.01)
    assert f"{threshold:.6g}" in card
    assert str(published.parent.parent.parent) not in card


EXPORT = "import sys; from training.__main__ import main; sys.exit(main(sys.argv[1:]))"


def test_two_exporters_racing_get_two_versions_of_the_same_bytes(published: Path, tmp_path: Path):
    command = [sys.executable, "-c", EXPORT, "export", "--run", str(run_of(published).folder)]
    racers = [
        subprocess.Popen([*command, "--exported", str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    folders = {racer.communicate()[0].strip() for racer in racers}
    assert folders == {str(tmp_path / "digits" / version) for version in "12"}
    assert sorted(entry.name for entry in (tmp_path / "digits").iterdir()) == ["1", "2"]
    for name in GRAPHS:
        expected = (published / name).read_bytes()
        assert all((Path(folder) / name).read_bytes() == expected for folder in folders), name


def another_model(served: Served) -> dict[str, bytes]:
    """The graphs of a model that differs by a hair from the one that is exported."""
    with torch.no_grad():
        served.autoencoder.decoder[-2].bias.add_(1e-3)  # type: ignore[index, union-attr, operator]
        files = training.graphs.graphs(served)
        served.autoencoder.decoder[-2].bias.sub_(1e-3)  # type: ignore[index, union-attr, operator]
    return files


def full_disk(*_arguments: object) -> str:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("target", "replacement", "error"),
    [
        ("training.export.graphs", another_model, (ExportError, "model.onnx: reconstruction differs from torch's")),
        ("training.card.render", full_disk, (OSError, "No space left")),
    ],
)
def test_a_failed_export_leaves_nothing_behind(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet: Progress,
    target: str,
    replacement: object,
    error: tuple[type[Exception], str],
):
    monkeypatch.setattr(target, replacement)
    with pytest.raises(error[0], match=error[1]):
        export_run(run_of(published), None, tmp_path / "exported", quiet)
    assert list((tmp_path / "exported").iterdir()) == []


def test_a_verdict_that_differs_is_refused_but_rounding_at_the_threshold_is_not():
    scores = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    training.export._compare_verdicts(scores, scores, threshold=2.5)
    training.export._compare_verdicts(scores, np.nextafter(scores, np.float32(9)), threshold=2.0)
    with pytest.raises(ExportError, match="verdict"):
        training.export._compare_verdicts(scores, np.array([1.0, 2.0001, 3.0], np.float32), threshold=2.00005)


def test_a_graph_that_draws_random_numbers_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch):
    served = served_of(run_of(published))
    encode = type(served.autoencoder).encode
    monkeypatch.setattr(
        type(served.autoencoder), "encode", lambda self, rows: (h := encode(self, rows)) + torch.randn_like(h)
    )
    with pytest.raises(ExportError, match=r"RandomNormal.*would not repeat"):
        training.graphs.graphs(served)


def test_a_graph_that_fixes_the_number_of_rows_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch):
    served = served_of(run_of(published))
    monkeypatch.setattr(type(served.autoencoder), "encode", lambda self, rows: self.encoder(rows).reshape(2, 8))
    with pytest.raises(ExportError):
        training.graphs.graphs(served)


def test_a_decoder_that_looks_at_the_rows_too_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch):
    served = served_of(run_of(published))
    answer = type(served.autoencoder).forward

    def peeking(self: Autoencoder, rows: Tensor) -> dict[str, Tensor]:
        answers = answer(self, rows)
        return {**answers, "reconstruction": (answers["reconstruction"] + rows) / 2}

    monkeypatch.setattr(type(served.autoencoder), "forward", peeking)
    with pytest.raises(ExportError, match=r"decoder\.onnx cannot be cut out of model\.onnx.*input"):
        training.graphs.graphs(served)


@pytest.mark.parametrize("variant", ["basic", "contractive", "vae"])
def test_the_embedding_space_is_the_weights_alone_whatever_the_score(config: Config, variant: str):
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    def files(score: str | None) -> dict[str, bytes]:
        settings = config(variant=variant, score=score)
        torch.manual_seed(0)
        model = build(settings, (6,))
        served = Served(Scaling.of(rows), model, training.fit.score(settings, model)).eval()
        training.fit.teach(served, rows[:32], rows[32:], robust=False)
        return training.graphs.graphs(served)

    first, *others = [files(score) for score in (None, "mean_squared_error", "embedding_nearest+top_features")]
    for other in others:
        assert other[MODEL] != first[MODEL]
        assert other[ENCODER] == first[ENCODER]
        assert other[DECODER] == first[DECODER]


def test_few_calibration_rows_promise_what_they_can(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = np.random.default_rng(0).normal(size=(10, 3)) * [1, 1e-6, 1e6] + [0, 0, 1e6]
    np.save(tmp_path / "t.npy", values)
    folder = fit(config(data=str(tmp_path / "t.npy"), name="few"), Progress(Console(stderr=True)))
    manifest = read(folder).manifest
    assert manifest.calibration.rows == 2
    assert manifest.calibration.false_alarm_rate == pytest.approx(1 / 3)
    assert [column.name for column in manifest.columns or []] == ["c0", "c1", "c2"]
    warning = (
        "warning: 2 calibration rows cannot promise a false-alarm rate of 0.01: using the smallest they can, 0.333"
    )
    assert warning in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "0.333" in (folder / "README.md").read_text()


@pytest.mark.parametrize("shape", [(8, 8), (5, 7, 3)])
def test_conv_models_are_exported(config: Config, tmp_path: Path, shape: tuple[int, ...], quiet: Progress):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((60, *shape)))
    folder = fit(config(data=str(tmp_path / "images.npy"), network="conv", hidden="4,8", epochs=1), quiet)
    whole = answers(read(folder), MODEL, np.zeros((3, *shape), np.float32))
    assert whole["reconstruction"].shape == whole["feature_error"].shape == (3, *shape)


def test_a_real_table_ranks(shared_data: Path, config: Config, quiet: Progress):
    file = shared_data / "adbench" / "6_cardio.npz"
    defaults = {"hidden": "", "embedding_dim": None, "epochs": 100, "batch_size": 256}
    folder = fit(config(data=str(file), name="cardio", **defaults), quiet)
    with np.load(file) as arrays:
        scores = answers(read(folder), MODEL, arrays["X"].astype(np.float32))["score"]
        assert roc_auc_score(arrays["y"], scores) > 0.65


@pytest.mark.parametrize("kind", ["one of two", "small counts", "nine kinds of rows"])
@pytest.mark.parametrize("training_data", ["clean", "mixed"])
def test_rows_that_are_there_many_times_are_published(tmp_path: Path, kind: str, training_data: str):
    """Their scores are equal, and the threshold is one of them."""
    rng = np.random.default_rng(0)
    rows = {
        "one of two": rng.integers(0, 2, (500, 1)),
        "small counts": rng.poisson(0.3, (1500, 4)),
        "nine kinds of rows": rng.integers(0, 3, (2500, 2)),
    }[kind]
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    settings = {"data": str(tmp_path / "rows.npy"), "name": "x", "epochs": 4, "training_data": training_data}
    config = FitConfig.model_validate({**settings, "exported": tmp_path / "exported", "runs": tmp_path / "runs"})
    artefact = read(fit(config, Progress(Console(file=io.StringIO()))))
    scores = answers(artefact, MODEL, rows.astype(np.float32))["score"]
    assert (scores > artefact.manifest.calibration.threshold(0.05)).mean() < 0.1


@pytest.mark.parametrize(
    "score", ["residual_mahalanobis+embedding_mahalanobis", "mean_squared_error", "whitened_error"]
)
def test_a_row_is_scored_with_the_same_bits_alone_and_among_others(tmp_path: Path, score: str):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(600, 30)) @ rng.normal(size=(30, 30))).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    settings = {"data": str(tmp_path / "rows.npy"), "name": "x", "epochs": 2, "score": score}
    config = FitConfig.model_validate({**settings, "exported": tmp_path / "exported", "runs": tmp_path / "runs"})
    artefact = read(fit(config, Progress(Console(file=io.StringIO()))))
    together = answers(artefact, MODEL, rows[:401])
    for size in (1, 7, 50):
        parts = [answers(artefact, MODEL, rows[start : min(start + size, 401)]) for start in range(0, 401, size)]
        for name, value in together.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), value), (name, size)
