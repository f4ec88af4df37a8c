"""report.html beside an exported model: what it repeats, how it learned, what its numbers mean, what it cost."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from markupsafe import Markup
from torch import nn

from hourglass.contract.manifest import Manifest
from training.report import anomalies, charts, embedding, examples, learning, pictures, score
from training.report.axis import number
from training.report.material import Material, sentence, words
from training.report.page import Figure, Page, Section, facts

if TYPE_CHECKING:
    from training.at_hand import AtHand
    from training.export import Trained

_FILTERS, _ABREAST = 48, 16


@torch.inference_mode()
def render(trained: Trained, manifest: Manifest, answers: Mapping[str, np.ndarray], at_hand: AtHand | None) -> str:
    """The page. answers: of model.onnx to all calibration rows, in order. The model is in evaluation mode."""
    material = Material(trained, manifest, answers, at_hand)
    sections = (
        examples.section(material),
        learning.section(material),
        embedding.section(material),
        embedding.generated(material),
        score.section(material),
        anomalies.at_hand(material),
        anomalies.worst(material),
        _filters(material),
        _cost(material),
    )
    version, made = manifest.provenance.versions["hourglass-serving"], manifest.provenance.created
    return Page(
        title=trained.config.name,
        subtitle=f"{sentence(trained.served.autoencoder.summary)}.",
        facts=_headline(material),
        sections=[section for section in sections if section],
        emblem=_hourglass(material),
        footer=f"Made by hourglass-train {version} on {made:%Y-%m-%d}. For programs: manifest.json.",
    ).html()


def _headline(material: Material) -> dict[str, str]:
    manifest, trained = material.manifest, material.trained
    provenance, architecture = manifest.provenance, material.autoencoder.architecture
    shape = " × ".join(map(str, manifest.row_shape))
    kind = "numbers" if material.columns is None else "columns"
    widths = " → ".join(map(str, architecture.widths)) or "one layer each way"
    return {
        "variant": words(manifest.variant),
        "network": f"{architecture.network}, {widths}",
        "embedding": f"{manifest.embedding_size:,} numbers",
        "precision": manifest.precision,
        "data": f"{provenance.data}, {sum(provenance.rows.values()):,} rows of {shape} {kind}",
        "rows": " · ".join(f"{count:,} {words(name)}" for name, count in provenance.rows.items()),
        "seed": str(provenance.seed),
        "score": words(manifest.score.name),
        "threshold": f"{number(material.threshold)} at {material.false_alarms} false alarms",
        "best epoch": f"{trained.best_epoch} of {len(trained.epochs)}" if trained.epochs else str(trained.best_epoch),
    }


def _hourglass(material: Material) -> Markup:
    """Numbers of a row after each layer that has weights."""
    there: list[int] = []
    back: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, answer, sizes=sizes: sizes.append(answer[0].numel()))
        for network, sizes in ((material.autoencoder.encoder, there), (material.autoencoder.decoder, back))
        for layer in (network if isinstance(network, nn.Sequential) else [network])
        if any(True for _ in layer.parameters())
    ]
    material.autoencoder(material.calibration[:1])
    for hook in hooks:
        hook.remove()
    row, neck = material.calibration[0].numel(), material.manifest.embedding_size
    sizes = [row, *there[:-1], neck, *back[:-1], row]
    shown = ", ".join(f"{size:,}" for size in sizes)
    return charts.silhouette(sizes, len(there), f"Numbers of a row from layer to layer: {shown}")


def _filters(material: Material) -> Section | None:
    """What the first layer looks for, where its weights are pictures."""
    layers = material.autoencoder.encoder.modules()
    first = next((layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)), None)
    if isinstance(first, nn.Conv2d):
        weights, kind = first.weight.detach().permute(0, 2, 3, 1).numpy(), "kernels"
    elif isinstance(first, nn.Linear) and material.columns is None and first.in_features == np.prod(material.row_shape):
        weights, kind = first.weight.detach().reshape(-1, *material.row_shape).numpy(), "units"
    else:
        return None
    flat = weights.reshape(len(weights), -1)
    strongest = np.argsort(-np.linalg.norm(flat, axis=1), kind="stable")[:_FILTERS]
    ranges = np.maximum(np.abs(flat).max(axis=1), np.finfo(np.float32).tiny).reshape(-1, *[1] * (weights.ndim - 1))
    tiles = pictures.warmth((weights / ranges)[strongest])
    averaged = " Colour channels are averaged." if weights.shape[3:] and weights.shape[3] > 1 else ""
    figure = Figure(
        "First layer",
        pictures.lanes(pictures.folded(tiles, _ABREAST), "Weights of the first layer"),
        f"The {len(tiles)} strongest of {len(weights):,} {kind}, each in its own range: warm pixels excite it, cool "
        f"ones silence it. Strokes, blobs and edges are features; noise is what learned little.{averaged}",
        wide=True,
    )
    return Section("Filters", "The weights of the first layer, as pictures of what it looks for.", [figure])


def _cost(material: Material) -> Section:
    epochs, manifest = material.trained.epochs, material.manifest
    training = {}
    if epochs:
        seconds = sum(manifest.provenance.rows["train"] / epoch.rows_per_second for epoch in epochs)
        speed = float(np.median([epoch.rows_per_second for epoch in epochs]))
        training = {
            "training": _duration(seconds),
            "epochs": f"{len(epochs):,} of at most {material.trained.config.epochs:,}",
            "speed": f"{speed:,.0f} rows/s",
        }
    parameters = sum(parameter.numel() for parameter in material.autoencoder.parameters())
    files = {name: _size(entry.bytes) for name, entry in manifest.files.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, torch on {torch.get_num_threads()}"
    bill = {**training, "parameters": f"{parameters:,}", **files, "machine": machine, **manifest.provenance.versions}
    caption = "Training time is that of the epochs in the run's log; the machine is the one that exported the model."
    return Section("What it cost", "", [Figure("The bill", facts(bill), caption, wide=True)])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _size(count: int) -> str:
    return f"{count / 2**10:,.0f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"
