"""hourglass-train evaluate: what a published model is worth, measured on the files that are served.

A section is one function from a Subject to a Section. All run the ONNX files on onnxruntime, but for fine-tuning and
-log p(x), which need the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from hourglass.contract import layout
from training.data import DIGITS, SPRITES
from training.errors import ConfigError
from training.evaluation import (
    anomalies,
    classification,
    compression,
    denoising,
    factors,
    likelihood,
    reconstruction,
    search,
)
from training.evaluation.published import Published, open_model
from training.evaluation.rows import read
from training.evaluation.section import Numbers, Section
from training.evaluation.subject import Subject
from training.evaluation.weights import weights_of
from training.progress import Progress
from training.run import Run
from training.variants.vae import Vae

_BUILT_IN = (DIGITS, SPRITES)


def evaluate(
    folder: Path,
    *,
    source: str | None,
    label: str | None,
    anomalous: Sequence[str],
    run: Path | None,
    samples: int,
    neighbours: bool,
    report: Path | None,
    console: Console,
    progress: Progress,
) -> None:
    """Measure exported/NAME[/VERSION], print each section as it is ready, and write all numbers to `report`, as JSON.

    source: as --data of a fit; None: what the run, or a model of built-in rows, was fitted on. label: a column of it,
    for classification. anomalous: its labels that are anomalies; none: see anomalies.find. run: the one that the model
    came from, for what needs its weights. samples: of one row's -log p(x). neighbours: whether
    to measure vector search. Raises TrainingError.
    """
    model = open_model(folder)
    if report:
        _check_report(report, model.folder)
    opened = Run.open(run) if run else None
    autoencoder = weights_of(opened, model) if opened else None
    with progress.step("reading"):
        data = read(source or _default_source(model, opened), model.manifest, label, anomalous)
    subject = Subject.of(model, data, autoencoder, anomalies.find(data, anomalous, model.manifest))
    subject.show(console)
    numbers = subject.numbers()
    for section in _sections(subject, samples, neighbours, progress):
        section.show(console)
        numbers[section.name] = section.numbers
    if report:
        _write(report, numbers)


def _check_report(report: Path, published: Path) -> None:
    """published: the model's folder. Raises ConfigError before minutes of measuring, rather than after them."""
    if (report.exists() and not report.is_file()) or not report.parent.is_dir():
        raise ConfigError(f"--json {report}: not a file in a folder that exists")
    exported, file = published.parent.parent, report.resolve()
    if exported.resolve() in file.parents or (file.parent / layout.MANIFEST).exists():
        raise ConfigError(f"--json {report}: a published version is never changed: write elsewhere")


def _write(report: Path, numbers: Mapping[str, Numbers]) -> None:
    """Whole, or not at all. Raises ConfigError."""
    draft = report.with_name(f".{report.name}.draft")
    try:
        draft.write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(report)
    except OSError as error:
        raise ConfigError(f"--json {report}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):  # it is not there, or nothing can be done about it
            draft.unlink()


def _default_source(model: Published, run: Run | None) -> str:
    """Raises ConfigError."""
    source = run.config.data if run else model.manifest.provenance.data
    # A published model knows a name; a run, the path, where there may be nothing now: reproductions have no file.
    if source in _BUILT_IN or (run and Path(source).exists()):
        return source
    gone = ", which is not there" if run else ""
    raise ConfigError(f"--data FILE is missing: rows to evaluate {model.folder} on; it was fitted on {source}{gone}")


def _sections(subject: Subject, samples: int, neighbours: bool, progress: Progress) -> Iterator[Section]:
    """Raises TrainingError."""
    measures: dict[str, Callable[[Subject], Section]] = {
        "reconstruction": reconstruction.measure,
        "denoising": denoising.measure,
        "compression": compression.measure,
    }
    if subject.labelled:
        measures["classification"] = classification.measure
    if subject.anomalies:
        measures["anomalies"] = anomalies.measure
    if isinstance(vae := subject.autoencoder, Vae):
        measures["-log p(x)"] = lambda subject: likelihood.measure(subject, vae, samples)
    if subject.data.source == SPRITES:
        measures["disentanglement"] = factors.measure
    for what, measure in measures.items():
        with progress.step(f"measuring {what}"):
            section = measure(subject)
        yield section
    if neighbours:
        yield search.measure(subject, progress)
