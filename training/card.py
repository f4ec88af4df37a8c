"""README.md beside each published model: what it is, for the person who finds the folder."""

from __future__ import annotations

from hourglass.contract.manifest import MODEL, Manifest
from training.config import FitConfig
from training.graphs import Served


def render(config: FitConfig, manifest: Manifest, served: Served) -> str:
    """The card, in Markdown."""
    provenance, calibration = manifest.provenance, manifest.calibration
    rows, autoencoder = provenance.rows, served.autoencoder
    shape = " × ".join(str(size) for size in manifest.row_shape)
    kind = "columns" if len(manifest.row_shape) == 1 else "numbers"
    excluded = f"; rows with {config.label} in {', '.join(config.exclude_label)} left out" * bool(config.exclude_label)
    facts = {**provenance.config["options"], **autoencoder.facts()}
    options = "".join(f"\n| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None)
    metrics = "".join(f"\n| {name} | {value:.6g} |" for name, value in provenance.metrics.items())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    rows_shown = "no row of the data is" if config.no_examples else "some rows of the data are"
    return f"""# {config.name}

A **{manifest.variant}** autoencoder: {autoencoder.summary}.

| | |
| --- | --- |
| row | {shape} {kind}, float32, in the units of the data; no missing values |
| embedding | {manifest.embedding_size} numbers, space `{manifest.embedding_space_id}` |
| objective | {_cell(autoencoder.objective)} |
| score | {manifest.score.name}: {_cell(manifest.score.formula)}; higher is more anomalous |
| feature_error | {_cell(served.score.feature_error)} |
| network | {config.network}, {" → ".join(map(str, provenance.config["hidden"])) or "one layer each way"} |{options}

Scaled units: {_scaling(served)}

## Data
{provenance.data}{excluded}; sha256 of the numbers `{provenance.data_sha256[:16]}…`, seed {provenance.seed}.
Three disjoint random splits: {rows["train"]:,} rows trained the weights, {rows["early_stop"]:,} chose the best epoch,
{rows["calibration"]:,} calibrated the score and gave the metrics below.

## Metrics on the calibration split, in scaled units
| metric | value |
| --- | --- |{metrics}

## Calibration
A row is called an anomaly when its score is above {calibration.threshold(calibration.false_alarm_rate):.6g}. Among
fresh rows like the calibration rows that happens with probability at most {calibration.false_alarm_rate:.3g}; the
smallest rate these {calibration.rows:,} rows can promise is {calibration.smallest_false_alarm_rate:.3g}. The promise
holds for rows drawn as the calibration rows were, not after the data have changed.

## Use
```
hourglass-serve --exported {config.exported.name or "exported"}
hourglass score FILE --model {config.name}
hourglass embed FILE --model {config.name} --out embeddings.parquet
hourglass denoise FILE --model {config.name} --out denoised.parquet
```
`model.onnx` (input → {", ".join(manifest.graph_outputs(MODEL))}), `encoder.onnx` and `decoder.onnx`
run in any ONNX runtime; scaling is inside. `manifest.json` has the rest, and golden rows to check a runtime with.
`report.html` has the pictures: {rows_shown} shown in it.

Made {provenance.created:%Y-%m-%d} with {versions}.
"""


def _cell(value: object) -> str:
    """A bar would end the cell of a table."""
    return str(value).replace("|", "\\|")


def _scaling(served: Served) -> str:
    scaling = served.scaling
    if scaling.scale.ndim:
        return f"each column less its mean, over its standard deviation, clipped at ±{scaling.high:g}."
    return (
        f"(x - {scaling.shift.item():g}) / {scaling.scale.item():g}, one range for all numbers, "
        f"clipped to [{scaling.low:g}, {scaling.high:g}]."
    )
