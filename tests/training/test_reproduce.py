"""hourglass-train reproduce: seeds are run once, kept, resumed, and shown on a page."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from training import devices, record, reproduction
from training.__main__ import main
from training.export import Trained
from training.probe import Labelled
from training.reproduction import Bench, Budget, Claim, Reproduction, at_most, fingerprint, registered
from training.reproductions import beta_vae

WHITE = 255
CPU = torch.device("cpu")
TINY = {"variant": "basic", "hidden": [], "embedding_dim": 2, "epochs": 2, "learning_rate": 0.001}


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """360 drawings in the files of MNIST, of which 300 train: a bar, upright for 1 and lying for 0."""
    monkeypatch.setattr(reproduction, "_VALIDATION", 60)
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 360), ("t10k", 50)):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 40, (count, 28, 28))
        images[labels == 1, 4:24, 12:16] = WHITE
        images[labels == 0, 12:16, 4:24] = WHITE
        _idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        _idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder.parent


def _idx(path: Path, numbers: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, numbers.ndim]) + sizes + numbers.astype(np.uint8).tobytes(), 1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> type[Reproduction]:
    registered()
    monkeypatch.setattr(reproduction, "_registry", {})
    monkeypatch.setattr(reproduction, "pkgutil", SimpleNamespace(iter_modules=lambda *_: ()))

    class Tiny(Reproduction):
        name: ClassVar[str] = "tiny"
        title: ClassVar[str] = "A bar, two ways"
        paper: ClassVar[str] = "Nobody 2026"
        remarks: ClassVar[str] = "For a test."
        claims: ClassVar[tuple[Claim, ...]] = (
            Claim("error", "errors", 3.5, "table 1", "A", at_most(0.5), at_most(-1)),
            Claim("seen", "test images"),
            Claim("gain", "better", gain=True),
        )
        recipes: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {"cpu": {"model": TINY}}
        breaks: ClassVar[bool] = False
        gives: ClassVar[float] = 0.25

        def run(self, bench: Bench) -> dict[str, float]:
            train, validation = bench.mnist.train, bench.mnist.validation
            trained = bench.fit("model", train.rows, validation.rows)
            if self.breaks:
                raise KeyboardInterrupt
            seen = len(bench.test_set())
            bench.publish(trained)
            return {"error": self.gives * bench.seed, "seen": seen, "gain": 1 + bench.seed / 10}

    return Tiny


def run(data: Path, *arguments: str) -> int:
    root = data.parent
    folders = [f"--results={root / 'results'}", f"--runs={root / 'runs'}", f"--exported={root / 'exported'}"]
    return main(["reproduce", *arguments, f"--data={data}", *folders])


def test_seeds_are_run_kept_and_shown(mnist: Path, tiny: type[Reproduction], capsys: pytest.CaptureFixture[str]):
    assert run(mnist, "tiny", "--seeds=2") == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == mnist.parent / "results.md"
    records = record.read(mnist.parent / "results", "tiny")
    assert [r.seed for r in records] == [0, 1]
    assert all(r.results["seen"] == 50 and r.minutes > 0 and r.machine.cores >= 1 for r in records)
    assert all(set(r.data_sha256) == {"mnist train", "mnist t10k"} for r in records)
    text = page.read_text()
    assert (
        "| errors | 3.5 | table 1 (A) | ≤ 0.5 | **0.125** ± 0.18 (2 seeds) | reached; goal ≤ -1 not reached |" in text
    )
    assert "| better |  |  |  | **1.05** ± 0.071 (2 seeds) | more than 2 standard errors (21.0) |" in text
    assert '"epochs": 2, "learning_rate": 0.001' in text
    published = mnist.parent / "exported" / "tiny-model"
    assert (published / "2" / "manifest.json").exists()
    before = {file: file.stat().st_mtime_ns for file in (mnist.parent / "results" / "tiny").iterdir()}
    assert run(mnist, "all", "--seeds=2") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert not (published / "3").exists()


def test_a_mean_outside_the_range_is_called_not_reached(mnist: Path, tiny: type[Reproduction]):
    assert run(mnist, "tiny", "--seeds=6") == 0  # the mean of 0, 1/4, ... 5/4
    assert "**not reached**" in (mnist.parent / "results.md").read_text()


def test_an_interrupted_seed_goes_on_where_it_was(
    mnist: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny, "breaks", True)
    assert run(mnist, "tiny", "--seeds=1") == 130
    assert record.read(mnist.parent / "results", "tiny") == []
    (log,) = (mnist.parent / "runs").rglob("log.jsonl")
    trained = log.read_text()
    assert len(trained.splitlines()) == 2
    monkeypatch.setattr(tiny, "breaks", False)
    assert run(mnist, "tiny", "--seeds=1") == 0
    assert log.read_text() == trained
    assert len(record.read(mnist.parent / "results", "tiny")) == 1


@pytest.mark.parametrize(("budget", "device"), [("cpu", "cpu"), ("gpu", "auto")])
def test_long_recipes_train_on_a_gpu_where_there_is_one(
    budget: str, device: str, mnist: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny, "recipes", {"cpu": {"model": TINY}, "gpu": {"model": {**TINY, "epochs": 3}}})
    asked: list[str] = []
    monkeypatch.setattr(devices, "chosen", lambda device: asked.append(device) or CPU)
    assert run(mnist, "tiny", "--seeds=1", f"--budget={budget}") == 0
    assert asked == [device, "cpu"]  # the second time by the training, of what was found
    (done,) = record.read(mnist.parent / "results", "tiny")
    assert done.machine.gpu is None
    on_gpu = done.machine.model_copy(update={"gpu": "NVIDIA H100"})
    assert str(on_gpu) == f"NVIDIA H100 and {done.machine}"


def test_results_of_another_recipe_stay_and_are_called_so(
    mnist: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch
):
    assert run(mnist, "tiny", "--seeds=1") == 0
    monkeypatch.setattr(tiny, "recipes", {"cpu": {"model": {**TINY, "epochs": 1}}})
    assert run(mnist, "tiny", "--seeds=1") == 0
    text = (mnist.parent / "results.md").read_text()
    assert text.index("<summary>Recipe (cpu") < text.index("<summary>Another recipe that was tried (cpu")
    assert len(record.read(mnist.parent / "results", "tiny")) == 2


def test_an_interrupted_run_is_not_taken_up_with_other_rows(
    mnist: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tiny, "breaks", True)
    assert run(mnist, "tiny", "--seeds=1") == 130
    images = mnist / "mnist" / "train-images-idx3-ubyte.gz"
    other = bytearray(gzip.decompress(images.read_bytes()))
    other[20] ^= 1
    images.write_bytes(gzip.compress(bytes(other), 1))
    assert run(mnist, "tiny", "--seeds=1") == 2
    assert "was begun with other settings or rows: delete it to begin anew" in capsys.readouterr().err


def test_no_number_is_no_result(
    mnist: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tiny, "gives", float("nan"))
    assert run(mnist, "tiny", "--seeds=1") == 2
    assert "tiny, seed 0: error is no number: nothing is recorded" in capsys.readouterr().err
    assert record.read(mnist.parent / "results", "tiny") == []


def test_a_file_that_is_no_record_is_named(mnist: Path, tiny: type[Reproduction], capsys: pytest.CaptureFixture[str]):
    foreign = mnist.parent / "results" / "tiny" / "notes.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    assert run(mnist, "tiny", "--seeds=1") == 2
    assert f"{foreign}: not a record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny"], "unknown reproduction 'tinny' (did you mean tiny?)"),
        (["tiny", "--budget=gpu"], "tiny has no recipe for --budget gpu: use cpu"),
        (["tiny", "--seeds=0"], "--seeds 0: at least 1"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, mnist: Path, tiny: type[Reproduction], capsys: pytest.CaptureFixture[str]
):
    assert run(mnist, *arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_data_are_named(
    tmp_path: Path, tiny: type[Reproduction], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "nothing", "tiny") == 2
    error = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz" in error
    assert "--data DIR" in error
    monkeypatch.delenv("HOURGLASS_DATA", raising=False)
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "runs", "exported")]
    assert main(["reproduce", "tiny", *folders]) == 2
    assert "--data DIR (or HOURGLASS_DATA)" in capsys.readouterr().err


def test_the_test_set_is_not_among_what_choices_are_made_with(mnist: Path, tmp_path: Path, quiet: Any):
    folders = {"folder": tmp_path, "exported": tmp_path, "pictures": tmp_path}
    bench = Bench("x", {}, 0, data=mnist, progress=quiet, device=CPU, **folders)
    assert len(bench.mnist.train) == 300
    assert len(bench.mnist.validation) == 60
    seen = torch.cat([bench.mnist.train.rows, bench.mnist.validation.rows])
    test: Labelled = bench.test_set()
    assert not any((seen == image).flatten(1).all(dim=1).any() for image in test.rows)


def test_every_reproduction_says_what_it_claims():
    known = registered()
    assert len(known) >= 10
    for kind in known.values():
        assert "cpu" in kind.recipes
        assert any(claim.expected for claim in kind.claims)
        assert all(claim.source and claim.confidence for claim in kind.claims if claim.reference is not None)


def test_a_recipe_is_known_by_all_its_numbers():
    recipe = {"epochs": 3, "rates": [0.1, 0.2]}
    assert fingerprint(recipe) == fingerprint(dict(reversed(recipe.items())))
    assert fingerprint(recipe) != fingerprint({**recipe, "rates": [0.1, 0.3]})


def _shrunk(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The same steps in seconds."""
    small = {"alphas": [1, 2], "images": 200, "points": [60, 30], "samples": 5}
    shrunk = {key: small.get(key, value) for key, value in recipe.items()}
    for key, value in shrunk.items():
        if isinstance(value, Mapping):
            shrunk[key] = {**value, "epochs": 2, "batch_size": 64}
    if "classifiers" in shrunk:
        shrunk["classifiers"] = [{**shrunk["classifiers"][0], "epochs": 1}]
    return shrunk


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_recipe_gives_what_it_claims(
    name: str, mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Any
):
    kind = registered()[name]
    monkeypatch.setattr(beta_vae, "_HELD_OUT", 40)
    published: list[Trained] = []
    if name != "k_sparse":  # the one that changes what it publishes is really exported
        monkeypatch.setattr(Bench, "publish", lambda bench, trained: published.append(trained))
    folders = {"folder": tmp_path / "run", "exported": tmp_path / "exported", "pictures": tmp_path / "pictures"}
    data = None if name in ("beta_vae", "annealed_beta_vae") else mnist
    recipe = _shrunk(kind.recipes["cpu"])
    bench = Bench(name.replace("_", "-"), recipe, 0, data=data, progress=quiet, device=CPU, **folders)
    results = kind().run(bench)
    assert set(results) == {claim.metric for claim in kind.claims}
    assert all(np.isfinite(value) for value in results.values())
    if name == "k_sparse":
        manifest = json.loads((tmp_path / "exported" / "k-sparse-model" / "1" / "manifest.json").read_text())
        assert manifest["provenance"]["config"]["options"]["alpha"] == results["alpha"]
    else:
        assert len(published) == 1
    if name == "sparse":
        assert Image.open(tmp_path / "pictures" / "filters.png").size == (600, 600)
