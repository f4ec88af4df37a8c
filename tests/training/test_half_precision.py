"""Half precision: what is published is float16 where it should be, answers as it must on any runtime, or is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from rich.console import Console
from torch import nn

import training.half_precision
from hourglass.contract import layout
from hourglass.contract.layout import Artefact
from hourglass.contract.manifest import DECODER, EMBEDDING, ENCODER, FLOAT16, FLOAT32, GRAPHS, INPUT, MODEL, SCORE
from service.devices import CPU, Device
from service.proving import Opener
from service.session import Options
from tests import tables
from tests.training.test_export import answers, read, run_of
from training import data
from training.__main__ import main
from training.autoencoder import registered
from training.config import FitConfig
from training.errors import ExportError
from training.evaluation import published as evaluation
from training.evaluation.weights import weights_of
from training.export import Trained, export
from training.fit import build, export_run, fit, load, score, teach
from training.graphs import Served, graphs
from training.half_precision import Halved, Moved, _cosines, _damaged, halved
from training.progress import Progress
from training.recalibrate import recalibrate
from training.runtime import Graph
from training.scaling import Scaling

Config = Callable[..., FitConfig]

# Of those that CUDA computes in float16 (docs/OperatorKernels.md of onnxruntime), the ones that networks need.
ON_CUDA = {
    "Cast", "Concat", "Conv", "ConvTranspose", "Gemm", "MatMul", "ReduceMean", "Relu", "Reshape", "Selu", "Sigmoid",
    "Split", "Squeeze", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip


@pytest.fixture(scope="module")
def halves(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """exported/digits/1, the small model of digits in float16."""
    folder = tmp_path_factory.mktemp("halves")
    return export_run(run_of(published), None, folder / "exported", Progress(Console(file=io.StringIO())), FLOAT16)


def untrained(config: FitConfig) -> Trained:
    """What fit would export before its first epoch: it is rounded as any other."""
    dataset = load(config)
    config = config.filled(dataset.row_shape)
    torch.manual_seed(0)
    model = build(config, dataset.row_shape, dataset.schema).eval()
    splits = data.split(dataset, config.seed)
    scaling = Scaling.of(splits.train, dataset.schema, missing=model.takes_missing)
    served = Served(scaling, model, score(config, model)).eval()
    teach(served, splits.train, splits.early_stop, robust=False)
    return Trained(config, served, dataset, splits, best_epoch=0, precision=FLOAT16)


def rounded(graph: bytes, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every output, by a runtime that rounds to float16 after every operator, as a GPU does: onnx's own, in numpy."""
    runtime = ReferenceEvaluator(graph)
    names = runtime.output_names
    return dict(zip(names, runtime.run(None, {runtime.input_names[0]: rows}), strict=True))


def assert_half(artefact: Artefact) -> None:
    """Weights of the networks and what is computed of them are float16, on CUDA's operators; the rest is float32."""
    networks = 0
    for file, content in artefact.files.items():
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)
        values = [*model.graph.input, *model.graph.output]
        assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
        kinds = {value.name: value.type.tensor_type.elem_type for value in [*model.graph.value_info, *values]}
        kinds |= {weight.name: weight.data_type for weight in model.graph.initializer}
        halves = [
            node
            for node in model.graph.node
            if TensorProto.FLOAT16 in {kinds[name] for name in [*node.input, *node.output] if name}
        ]
        assert {node.op_type for node in halves} <= ON_CUDA, file
        products = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv", "ConvTranspose")]
        assert all(kinds[name] == TensorProto.FLOAT16 for node in products for name in node.input)
        networks += len(products)
    assert networks


def assert_served(artefact: Artefact) -> None:
    """By the server's own proof, and by a runtime that rounds more often."""
    Opener(Device(CPU), Options(), batch_rows=8).open(artefact)
    manifest = artefact.manifest
    given = {INPUT: manifest.golden.input, **manifest.golden.outputs}
    for file, (input_name, _) in GRAPHS.items():
        for name, value in rounded(artefact.files[file], given[input_name].unpack()).items():
            tolerance = manifest.tolerance[name]
            np.testing.assert_allclose(
                value, manifest.golden.outputs[name].unpack(), tolerance.rtol, tolerance.atol, err_msg=name
            )


@pytest.mark.parametrize("variant", registered())
def test_every_variant_is_published_in_half_precision(config: Config, tmp_path: Path, variant: str):
    trained = untrained(config(variant=variant))
    artefact = read(export(trained, tmp_path / "exported"))
    manifest = artefact.manifest
    assert manifest.precision == FLOAT16
    assert list(manifest.golden.tolerance) == [FLOAT16]
    found = manifest.provenance.half_precision
    assert found
    assert found.cosine > 0.9999
    assert abs(found.auroc - found.float32_auroc) < 0.002
    assert found.anomalies == "damaged"
    assert_half(artefact)
    assert_served(artefact)
    rows = trained.splits.calibration[:50]
    with torch.inference_mode():
        exact = trained.served(rows)
    whole = answers(artefact, MODEL, rows.numpy())
    np.testing.assert_allclose(whole[SCORE], exact[SCORE], rtol=0.01)
    np.testing.assert_allclose(answers(artefact, ENCODER, rows.numpy())[EMBEDDING], whole[EMBEDDING], atol=1e-6)
    decoded = answers(artefact, DECODER, whole[EMBEDDING])["reconstruction"]
    np.testing.assert_allclose(decoded / 16, whole["reconstruction"] / 16, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((60, 8, 8), {"network": "conv", "hidden": "4,8"}),
        ((60, 5, 7, 3), {"network": "conv", "hidden": "4,8", "hidden_activation": "selu"}),
        ((400, 3), {"network": "conv1d", "hidden": "4,8", "window": 6}),
        ((400, 5), {"options": {"tied": True}}),
        ((400, 5), {"score": "whitened_error+embedding_mahalanobis"}),
    ],
)
def test_every_network_is_published_in_half_precision(
    config: Config, tmp_path: Path, shape: tuple[int, ...], settings: dict[str, object]
):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=shape).cumsum(axis=1))
    trained = untrained(config(data=str(tmp_path / "rows.npy"), embedding_dim=None, **settings))
    artefact = read(export(trained, tmp_path / "exported"))
    assert_half(artefact)
    assert_served(artefact)


def test_categories_and_holes_are_published_in_half_precision(config: Config, tmp_path: Path):
    file = tables.write(tmp_path / "t.csv", tables.mixed(1_000, 0, holes=0.1))
    settings = {"data": str(file), "id": "id", "label": "state", "embedding_dim": None}
    artefact = read(export(untrained(config(**settings)), tmp_path / "exported"))
    assert artefact.manifest.takes_missing
    assert np.isnan(artefact.manifest.golden.input.unpack()).any()
    assert_half(artefact)
    assert_served(artefact)


def test_the_score_is_summed_in_float32(config: Config, tmp_path: Path):
    """Beyond 65,504, the largest number of float16."""
    trained = untrained(config(variant="vae", options={"likelihood": "gaussian", "variance": 1e-5}))
    artefact = read(export(trained, tmp_path / "exported"))
    rows = data.load(trained.config).rows[:50].numpy()
    whole = answers(artefact, MODEL, rows)
    squared = (((rows - whole["reconstruction"]) / 16).astype(np.float64) ** 2).sum(axis=(1, 2))
    deviation = whole["embedding_stddev"].astype(np.float64)
    kl = 0.5 * (whole[EMBEDDING].astype(np.float64) ** 2 + deviation**2 - 1 - 2 * np.log(deviation)).sum(axis=1)
    expected = 0.5 * squared / 1e-5 + 32 * np.log(2 * np.pi * 1e-5) + kl
    assert expected.min() > 65_504
    np.testing.assert_allclose(whole[SCORE], expected, rtol=1e-5)


def test_re_export_gives_the_same_bytes_and_fewer(published: Path, halves: Path, quiet: Progress, tmp_path: Path):
    again = export_run(run_of(published), None, tmp_path / "exported", quiet, FLOAT16)
    for name in GRAPHS:
        assert (again / name).read_bytes() == (halves / name).read_bytes(), name
        assert len((halves / name).read_bytes()) < 0.8 * len((published / name).read_bytes())


def test_calibration_and_embedding_space_are_its_own(published: Path, halves: Path):
    exact, half = read(published), read(halves)
    assert half.manifest.embedding_space_id != exact.manifest.embedding_space_id
    run = run_of(published)
    rows = data.split(data.load(run.config), run.config.seed).calibration.numpy()
    scores = np.sort(answers(half, MODEL, rows)[SCORE].astype(np.float64))
    bound = half.manifest.tolerance[SCORE]
    np.testing.assert_allclose(half.manifest.calibration.scores, scores * (1 + bound.rtol) + bound.atol, rtol=1e-6)
    # Four times what rounding moved them by, which is little.
    threshold = exact.manifest.calibration.threshold(0.01)
    assert half.manifest.calibration.threshold(0.01) == pytest.approx(threshold, rel=0.02)


def test_card_and_report_say_the_precision(published: Path, halves: Path):
    assert "| precision | float32 |" in (published / "README.md").read_text()
    card = (halves / "README.md").read_text()
    assert "| precision | float16 in the networks" in card
    found = read(halves).manifest.provenance.half_precision
    assert found
    assert "float16's own. 95 % of the\nearly-stop rows have embeddings whose cosine with float32's is 0.99999" in card
    assert f"is {found.auroc:.4f}, in float32 {found.float32_auroc:.4f}." in card
    assert "<dt>precision</dt><dd>float16</dd>" in (halves / "report.html").read_text()


def test_the_run_is_known_by_the_half_precision_model(published: Path, halves: Path):
    full, half = (weights_of(run_of(published), evaluation.open_model(folder)) for folder in (published, halves))
    assert full.state_dict().keys() == half.state_dict().keys()
    for name, weight in full.state_dict().items():
        assert weight.dtype == half.state_dict()[name].dtype == torch.float32
        assert torch.equal(weight, half.state_dict()[name])


def test_calibrate_keeps_the_precision_and_its_bounds(halves: Path, tmp_path: Path, quiet: Progress):
    root = tmp_path / "exported"
    shutil.copytree(halves.parent.parent, root)
    rows = np.random.default_rng(0).uniform(0, 16, size=(300, 8, 8)).astype(np.float32)
    np.save(tmp_path / "new.npy", rows)
    folder = recalibrate(
        root / "digits", source=str(tmp_path / "new.npy"), label=None, exclude=(), rate=None, progress=quiet
    )
    before, after = read(root / "digits" / "1"), read(folder)
    assert after.manifest.precision == FLOAT16
    assert after.manifest.golden == before.manifest.golden
    bound, scores = before.manifest.tolerance[SCORE], np.sort(answers(before, MODEL, rows)[SCORE].astype(np.float64))
    np.testing.assert_allclose(after.manifest.calibration.scores, scores * (1 + bound.rtol) + bound.atol, rtol=1e-6)
    assert "| precision | float16 in the networks" in (folder / "README.md").read_text()
    Opener(Device(CPU), Options(), batch_rows=8).open(after)


def test_rows_that_are_all_alike_are_no_anomalies_where_rounding_differs(config: Config, tmp_path: Path):
    rows = np.random.default_rng(0).integers(0, 3, (900, 2)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    folder = export(untrained(config(data=str(tmp_path / "rows.npy"), embedding_dim=None)), tmp_path / "exported")
    artefact = read(folder)
    threshold = artefact.manifest.calibration.threshold(0.05)
    for scores in (answers(artefact, MODEL, rows)[SCORE], rounded(artefact.files[MODEL], rows)[SCORE]):
        assert (scores > threshold).mean() < 0.06


def refused(trained: Trained, exported: Path) -> str:
    with pytest.raises(ExportError) as caught:
        export(trained, exported)
    assert list(exported.iterdir()) == []
    message = str(caught.value)
    assert "\n" not in message
    return message


def encoder_layers(trained: Trained) -> tuple[nn.Linear, nn.Linear]:
    encoder = trained.served.autoencoder.encoder
    assert isinstance(encoder, nn.Sequential)
    first, last = encoder[1], encoder[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last


def test_what_float16_cannot_hold_is_refused(config: Config, tmp_path: Path):
    trained = untrained(config(variant="basic"))
    first, last = encoder_layers(trained)
    with torch.no_grad():  # ReLU lets a factor pass: embeddings are what they were
        first.weight.mul_(2**20)
        first.bias.mul_(2**20)
        last.weight.div_(2**20)
    export(replace(trained, precision=FLOAT32), tmp_path / "float32")
    assert refused(trained, tmp_path / "exported") == (
        "float16 cannot hold what this model computes: embedding becomes infinite or NaN; publish it in float32: "
        "leave --precision out"
    )


def test_what_only_a_gpu_would_lose_is_refused(config: Config, tmp_path: Path):
    """Between two layers the numbers lie near 3,000, where float16 knows every second one only."""
    trained = untrained(config(variant="basic"))
    first, last = encoder_layers(trained)
    with torch.no_grad():
        first.bias.fill_(3_000)
        last.weight[:, 1::2] = -last.weight[:, ::2]
    half = halved(trained.served).eval()
    moved = Halved(trained.served, half, Graph(graphs(half)[MODEL])).moved(trained.splits.early_stop)
    here, on_a_gpu = (replace(moved, graph=one, rounded=one).cosine() for one in (moved.graph, moved.rounded))
    assert here > 0.9999 > 0.99 > on_a_gpu
    message = refused(trained, tmp_path / "exported")
    assert message.startswith("float16 changes this model too much: ")
    assert "least allowed: 0.999" in message
    assert "the AUROC of damaged rows" in message
    assert message.endswith("publish it in float32: leave --precision out")


@pytest.mark.parametrize(("bound", "value"), [("LEAST_COSINE", 1.01), ("MOST_AUROC_CHANGE", -1.0)])
def test_each_gate_refuses(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: float):
    trained = untrained(config())
    monkeypatch.setattr(training.half_precision, bound, value)
    assert f"allowed: {value:g}" in refused(trained, tmp_path / "exported")


def test_a_tolerance_that_proves_nothing_is_refused(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained = untrained(config())
    monkeypatch.setattr(training.half_precision, "_HEADROOM", 1e3)
    assert "golden rows would prove nothing" in refused(trained, tmp_path / "exported")


def test_excluded_rows_are_the_anomalies(shared_data: Path, config: Config, quiet: Progress, tmp_path: Path):
    with np.load(shared_data / "adbench" / "6_cardio.npz") as arrays:
        cells = np.column_stack([arrays["X"], arrays["y"]])
    names = ",".join([*(f"c{i}" for i in range(cells.shape[1] - 1)), "y"])
    np.savetxt(tmp_path / "cardio.csv", cells, delimiter=",", header=names, comments="")
    settings = {"data": str(tmp_path / "cardio.csv"), "name": "cardio", "label": "y", "exclude_label": "1.0"}
    folder = fit(config(**settings, embedding_dim=None, epochs=10), quiet)
    half = export_run(run_of(folder), None, None, quiet, FLOAT16)
    assert half.name == "2"
    manifest, exact = read(half).manifest, read(folder).manifest
    found = manifest.provenance.half_precision
    assert found
    assert found.anomalies == "excluded"
    assert manifest.provenance.detection
    assert exact.provenance.detection
    auroc, before = (m.provenance.detection.methods["model"]["auroc"] for m in (manifest, exact))  # type: ignore[union-attr]
    assert found.auroc == pytest.approx(auroc, abs=0.002)
    assert found.float32_auroc == pytest.approx(before, abs=1e-6)
    assert "The AUROC of\nthe rows that the fit left out is" in (half / "README.md").read_text()


def test_a_version_of_before_is_float32(published: Path, tmp_path: Path):
    root = tmp_path / "exported"
    shutil.copytree(published.parent.parent, root)
    file = root / "digits" / "1" / "manifest.json"
    content = json.loads(file.read_text())
    assert content.pop("precision") == "float32"
    assert content["provenance"].pop("half_precision") is None
    file.write_text(json.dumps(content))
    artefact = layout.read(root, "digits", 1, tuple(GRAPHS))
    assert artefact.manifest.precision == "float32"
    assert artefact.manifest == read(published).manifest
    Opener(Device(CPU), Options(), batch_rows=8).open(artefact)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("bf16", "onnxruntime cannot run it on a CPU, so that an export could not be proven; use float16"),
        ("bfloat16", "use float16"),
        ("int8", "'int8' is neither float32 nor float16"),
    ],
)
def test_other_precisions_are_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, says: str
):
    command = ["export", "--run", str(run_of(published).folder), "--exported", str(tmp_path / "exported")]
    assert main([*command, "--precision", asked]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_the_program_publishes_and_tells(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["export", "--run", str(run_of(published).folder), "--exported", str(tmp_path / "exported")]
    assert main([*command, "--precision", "fp16"]) == 0
    told = capsys.readouterr()
    folder = Path(told.out.strip())
    found = read(folder).manifest.provenance.half_precision
    assert found
    assert f"AUROC of damaged rows {found.auroc:.4f}, in float32 {found.float32_auroc:.4f}" in " ".join(
        told.err.split()
    )


def moved(exact: list[float], graph: list[float], other: list[float]) -> Moved:
    kinds = (np.array(values, np.float32) for values in (exact, graph, other))
    return Moved(*({"score": values} for values in kinds))


def test_a_tolerance_is_four_times_what_was_seen_where_it_allows_least():
    # Large numbers are moved by a share of 0.001: a relative tolerance of 0.004, and no more than it takes.
    (found,) = moved([1000, 10, 1], [1001, 10, 1], [1001, 10, 1]).tolerances({}).values()
    assert found.rtol == pytest.approx(0.005)  # the least halving of 0.01 that reaches 0.004
    assert found.atol == pytest.approx(1e-5)
    # All by the same: an absolute one.
    (found,) = moved([1000, 10, 1], [1000, 10, 1], [1000.01, 10.01, 1.01]).tolerances({}).values()
    assert found.rtol == pytest.approx(0.01 / 64)
    assert found.atol == pytest.approx(0.04, rel=0.02)
    # In units of 10.
    (found,) = (
        moved([1000, 10, 1], [1000, 10, 1], [1000.01, 10.01, 1.01]).tolerances({"score": np.float32(10)}).values()
    )
    assert found.atol == pytest.approx(0.004, rel=0.02)


def test_cosines_of_embeddings_that_are_zero():
    one = np.array([[1, 0], [0, 0], [0, 0], [1, 1], [2, 0]], np.float32)
    other = np.array([[0, 1], [0, 0], [1, 0], [-1, -1], [5, 0]], np.float32)
    np.testing.assert_allclose(_cosines(one, other), [0, 1, 0, -1, 1])


def test_damaged_rows_have_a_tenth_of_other_rows():
    rows = torch.arange(1000.0).reshape(50, 20)
    damaged = _damaged(rows)
    assert damaged.equal(_damaged(rows))
    changed = damaged != rows
    assert changed.sum(dim=1).max() == 2
    assert changed.sum() > 90  # a row that is its own donor stays as it is
    assert ((damaged - rows) % 20 == 0).all()  # from the same column


def test_the_float32_model_is_left_as_it_is():
    config = FitConfig(data="digits", name="x", variant="denoising", options={"tied": True})
    model = build(config.filled((8, 8)), (8, 8))
    served = Served(Scaling.of(torch.rand(20, 8, 8)), model, model.score()).eval()
    half = halved(served)
    assert {parameter.dtype for parameter in served.parameters()} == {torch.float32}
    networks = (half.autoencoder.encoder, half.autoencoder.decoder)
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.float16}
    # Tied weights are one tensor still.
    assert len(list(half.parameters())) == len(list(served.parameters()))
