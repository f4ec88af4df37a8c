"""README.md beside each published model: what it is, for the person who finds the folder."""

from __future__ import annotations

import html
from collections.abc import Sequence

from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import FLOAT16, FLOAT32, MODEL, Manifest, Precision
from hourglass.files.timestamps import duration
from training.config import FitConfig
from training.detection import RECALL_AT, TITLES, calibrated_mixed, lost, rounded
from training.distances import EmbeddingNearest
from training.false_alarms import interval, percent
from training.graphs import Served
from training.half_precision import cosine_shown

_SHOWN_CATEGORIES = 8
_PRECISIONS: dict[Precision, str] = {
    FLOAT32: "float32",
    FLOAT16: "float16 in the networks; scaling, score, input and outputs are float32",
}


def render(config: FitConfig, manifest: Manifest, served: Served) -> str:
    """The card, in Markdown."""
    provenance = manifest.provenance
    rows, autoencoder = provenance.rows, served.autoencoder
    splits = "random splits" if manifest.window is None else "blocks in order of time, with a window between them"
    left_out = _given(f"{config.label} in {', '.join(config.exclude_label)}")
    excluded = f"; rows with {left_out} left out" * bool(config.exclude_label)
    facts = {**provenance.config["options"], **autoencoder.facts()}
    options = "".join(f"\n| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None)
    metrics = "".join(f"\n| {name} | {value:.6g} |" for name, value in provenance.metrics.items())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    kept = (
        " The score keeps the embeddings and reconstructions of training rows in `model.onnx`."
        if EmbeddingNearest.name in manifest.score.name
        else ""
    )
    missing = "cells may be missing (NaN)" if manifest.takes_missing else "no missing values"
    rows_shown = "no row of the data is" if config.no_examples else "some rows of the data are"
    return f"""# {config.name}

A **{manifest.variant}** autoencoder: {autoencoder.summary}.

| | |
| --- | --- |
| row | {_row(manifest)}, float32, in the units of the data; {missing} |
| embedding | {manifest.embedding_size} numbers, space `{manifest.embedding_space_id}` |
| objective | {_cell(autoencoder.objective)} |
| precision | {_PRECISIONS[manifest.precision]} |
| score | {manifest.score.name}: {_cell(manifest.score.formula)}; higher is more anomalous |
| feature_error | {_cell(served.score.feature_error)} |
| network | {config.network}, {" → ".join(map(str, provenance.config["hidden"])) or "one layer each way"} |{options}

Scaled units: {_scaling(served)}
{_columns(manifest)}
## Data
{provenance.data}{excluded}; sha256 of the numbers `{provenance.data_sha256[:16]}…`, seed {provenance.seed}.
Three disjoint {splits}: {rows["train"]:,} rows trained the weights, {rows["early_stop"]:,} chose the best epoch,
{rows["calibration"]:,} calibrated the score and gave the metrics below.

## Metrics on the calibration split, in scaled units
| metric | value |
| --- | --- |{metrics}

## Calibration
{_calibration(manifest)}
{_half_precision(manifest)}{_detection(manifest)}
## Use
{_use(config.name, config.exported.name, manifest)}
`report.html` has the pictures: {rows_shown} shown in it.{kept}

Made {provenance.created:%Y-%m-%d} with {versions}.
"""


def _row(manifest: Manifest) -> str:
    shape, window = " × ".join(str(size) for size in manifest.row_shape), manifest.window
    if window is None:
        return f"{shape} {'columns' if len(manifest.row_shape) == 1 else 'numbers'}"
    channels = _cell(", ".join(column.name for column in manifest.columns or ()))
    step = f", usually {duration(window.step_seconds)} apart" if window.step_seconds else ""
    return (
        f"{shape}: a window of {window.length} timestamps{step}, of the channels {channels}; of a series, one window "
        f"every {window.stride} timestamps is scored"
    )


def recalibrated(name: str, version: int, exported: str, manifest: Manifest, before: Calibration) -> str:
    """The card of a version whose graphs are an earlier one's. before: that one's calibration."""
    provenance = manifest.provenance
    source = provenance.recalibrated
    assert source
    threshold, earlier = before.threshold(before.false_alarm_rate), source.from_version
    return f"""# {name}

Version {version}, **recalibrated from version {earlier} on {source.rows:,} rows of {source.data}**: the files of that
one, byte for byte, with another calibration. What it is, what it learned from and its pictures: its card and report.

| | |
| --- | --- |
| variant | {manifest.variant} |
| embedding | {manifest.embedding_size} numbers, space `{manifest.embedding_space_id}`, as before |
| precision | {_PRECISIONS[manifest.precision]} |
| score | {manifest.score.name}: {_cell(manifest.score.formula)}; higher is more anomalous |
| fitted | {source.fitted:%Y-%m-%d} on {provenance.data}, sha256 of the numbers `{provenance.data_sha256[:16]}…` |
| recalibrated | {provenance.created:%Y-%m-%d} on {source.data}, sha256 of the numbers `{source.data_sha256[:16]}…` |

## Calibration
{_calibration(manifest)}
Before, the threshold was {threshold:.6g}, at {percent(before.false_alarm_rate)} false alarms.

## Use
{_use(name, exported, manifest)}
`report.html` shows the scores before and now; no row of the data is in it.
"""


def _columns(manifest: Manifest) -> str:
    """What each column holds; nothing where all are numeric."""
    schema = manifest.row_schema
    if schema is None or schema.is_numeric:
        return ""
    rows = "".join(
        f"\n| {_cell(_given(c.name))} | {c.type} | {_cell(_given(_some(c.categories)))} |" for c in schema.columns
    )
    return f"""
## Columns
A category's code is its place in `manifest.json`, from 1 on; 0 is every other category, and NaN a missing cell.

| column | holds | categories |
| --- | --- | --- |{rows}
"""


def _some(categories: Sequence[str]) -> str:
    shown = ", ".join(categories[:_SHOWN_CATEGORIES])
    return shown + (f", … ({len(categories)} in all)" if len(categories) > _SHOWN_CATEGORIES else "")


def _calibration(manifest: Manifest) -> str:
    calibration, mixed = manifest.calibration, calibrated_mixed(manifest.provenance)
    rate, n = calibration.false_alarm_rate, calibration.rows
    threshold, smallest = calibration.threshold(rate), calibration.smallest_false_alarm_rate
    low, high = map(percent, interval(calibration, rate))
    text = f"""A row is called an anomaly when its score is above {threshold:.6g}. That happens to a fresh row like the
calibration rows{", anomalies included," * mixed} with probability at most {rate:.3g}; the smallest that {n:,} rows can
promise is {smallest:.3g}. They were drawn by chance: of many fresh rows this model calls {percent(rate)} anomalies,
95 % interval {low} – {high}.
The promise holds for rows drawn as the calibration rows were, not after the data have changed: `hourglass-train
calibrate` renews it on new rows, without training."""
    text += _WINDOWS * (manifest.window is not None)
    return f"{text}\n{_MIXED}" if mixed else text


_WINDOWS = """
Windows that overlap tell little more than one, so of a series there may be several times as many false alarms, and the
interval is wider, the fewer calibration windows do not overlap."""

_MIXED = """
**The calibration rows hold the same anomalies as the training rows**, so the rate counts anomalies, too. Where 3 %
of the rows are anomalies and 1 % is asked for, about two thirds of them pass at best. Ask for a rate of at least their
share, or recalibrate on clean rows: `hourglass-train calibrate`."""


def _half_precision(manifest: Manifest) -> str:
    """What float16 changed; nothing where it is not."""
    found = manifest.provenance.half_precision
    if found is None:
        return ""
    anomalies = {
        "excluded": "the rows that the fit left out",
        "damaged": "calibration rows of which a tenth of the numbers are other rows'",
    }[found.anomalies]
    return f"""
## Half precision
Of the same weights as a float32 version; calibration, metrics and golden rows are float16's own. 95 % of the
early-stop rows have embeddings whose cosine with float32's is {cosine_shown(found)} or more. The AUROC of
{anomalies} is {found.auroc:.4f}, in float32 {found.float32_auroc:.4f}.
"""


def _detection(manifest: Manifest) -> str:
    """What the anomalies that the fit had at hand say; nothing where it had none."""
    found = manifest.provenance.detection
    if found is None:
        return ""
    measures = ("auroc", "auprc", *RECALL_AT)
    rows = "".join(
        f"\n| {TITLES[name]} | " + " | ".join(rounded(values.get(m)) for m in measures) + " |"
        for name, values in found.methods.items()
    )
    loses = lost({name: values["auroc"] for name, values in found.methods.items()})
    return f"""
## Anomalies at hand
{found.anomalous_rows:,} rows that the fit left out, taken as anomalies, and {found.normal_rows:,} calibration rows;
the simple detectors learned from what the model learned from. {loses or "None of them ranks these rows better."}

| | AUROC | AUPRC | recall at 1 % false alarms | at 0.1 % |
| --- | --- | --- | --- | --- |{rows}
"""


def _use(name: str, exported: str, manifest: Manifest) -> str:
    return f"""```
hourglass-serve --exported {exported or "exported"}
hourglass score FILE --model {name}
hourglass embed FILE --model {name} --out embeddings.parquet
hourglass embed FILE --model {name} --to lancedb://vectors
hourglass denoise FILE --model {name} --out denoised.parquet
```
`model.onnx` (input → {", ".join(manifest.graph_outputs(MODEL))}), `encoder.onnx` and `decoder.onnx`
run in any ONNX runtime; scaling is inside. `manifest.json` has the rest, and golden rows to check a runtime with."""


def _cell(value: object) -> str:
    """A bar would end the cell of a table."""
    return str(value).replace("|", "\\|")


def _given(text: str) -> str:
    """What comes from the data, on one line, and no HTML whatever it looks like."""
    return " ".join(html.escape(text, quote=False).split())


def _scaling(served: Served) -> str:
    scaling = served.scaling
    if not scaling.expansion.plain:
        return (
            f"each numeric column less its mean, over its standard deviation, clipped at ±{scaling.high:g}; of a "
            "categorical one a number for each category, 1 or 0, scaled so that together they count as a numeric "
            "column."
        )
    if scaling.scale.ndim:
        return f"each column less its mean, over its standard deviation, clipped at ±{scaling.high:g}."
    return (
        f"(x - {scaling.shift.item():g}) / {scaling.scale.item():g}, one range for all numbers, "
        f"clipped to [{scaling.low:g}, {scaling.high:g}]."
    )
