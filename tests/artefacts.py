"""Published models whose answers are known in closed form: linear autoencoders written without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hourglass.contract import layout
from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import (
    CLIPPED,
    DECODER,
    EMBEDDING,
    EMBEDDING_STDDEV,
    ENCODER,
    FEATURE_ERROR,
    FLOAT32,
    GRAPHS,
    INPUT,
    MODEL,
    RECONSTRUCTION,
    RECONSTRUCTION_ERROR,
    SCORE,
    Array,
    AsideColumns,
    FileEntry,
    GoldenRows,
    Manifest,
    Provenance,
    Scaling,
    ScoreDefinition,
    Tolerance,
)
from hourglass.contract.quantization import Quantizations
from hourglass.contract.schema import Column


@dataclass(frozen=True)
class Linear:
    """With s = x clipped to ±clip: embedding = s W, reconstruction = s W Wᵀ, score = the sum of squared errors; with a
    prior, stddev = |embedding| + 1. With fill, a missing cell counts as 0 and has no error."""

    weights: np.ndarray
    prior: bool = False
    clip: float = 1e30
    fill: bool = False

    @classmethod
    def random(
        cls,
        width: int = 4,
        embedding_size: int = 2,
        seed: int = 0,
        prior: bool = False,
        clip: float = 1e30,
        fill: bool = False,
    ) -> Linear:
        rng = np.random.default_rng(seed)
        weights = (rng.standard_normal((width, embedding_size)) / np.sqrt(width)).astype(np.float32)
        return cls(weights, prior, clip, fill)

    def answers(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        missing = np.isnan(rows) & self.fill
        rows = np.where(missing, np.float32(0), rows)
        scaled = np.clip(rows, -self.clip, self.clip)
        embedding = scaled @ self.weights
        reconstruction = embedding @ self.weights.T
        error = np.where(missing, np.float32(0), (scaled - reconstruction) ** 2)
        answers = {
            EMBEDDING: embedding,
            RECONSTRUCTION: reconstruction,
            SCORE: error.sum(axis=1),
            FEATURE_ERROR: error,
            RECONSTRUCTION_ERROR: error.mean(axis=1),
            CLIPPED: (scaled != rows).sum(axis=1).astype(np.float32),
        }
        return {**answers, EMBEDDING_STDDEV: np.abs(embedding) + 1} if self.prior else answers

    def graphs(self, work: int = 0) -> dict[str, bytes]:
        """The three graphs. `work`: that many multiplications with a 512 x 512 matrix a row are done for nothing."""
        w, wt = numpy_helper.from_array(self.weights, "w"), numpy_helper.from_array(self.weights.T.copy(), "wt")
        ends = [
            numpy_helper.from_array(np.array(end, dtype=np.float32), name)
            for name, end in (("low", -self.clip), ("high", self.clip))
        ]
        zero = numpy_helper.from_array(np.zeros((), dtype=np.float32), "zero")
        if self.fill:
            encode = [
                helper.make_node("IsNaN", [INPUT], ["missing"]),
                helper.make_node("Where", ["missing", "zero", INPUT], ["present"]),
            ]
            error = helper.make_node("Where", ["missing", "zero", "squared"], [FEATURE_ERROR])
        else:
            encode = [helper.make_node("Identity", [INPUT], ["present"])]
            error = helper.make_node("Identity", ["squared"], [FEATURE_ERROR])
        encode += [
            helper.make_node("Clip", ["present", "low", "high"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "w"], [EMBEDDING]),
        ]
        one = numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")
        if self.prior:
            encode += [
                helper.make_node("Abs", [EMBEDDING], ["size"]),
                helper.make_node("Add", ["size", "one"], [EMBEDDING_STDDEV]),
            ]
        decode = helper.make_node("MatMul", [EMBEDDING, "wt"], [RECONSTRUCTION])
        score = [
            helper.make_node("Sub", ["scaled", RECONSTRUCTION], ["residual"]),
            helper.make_node("Mul", ["residual", "residual"], ["squared"]),
            error,
            helper.make_node("ReduceMean", [FEATURE_ERROR, "axes"], [RECONSTRUCTION_ERROR], keepdims=0),
            helper.make_node("ReduceSum", [FEATURE_ERROR, "axes"], ["sum"], keepdims=0),
            helper.make_node("Equal", ["present", "scaled"], ["kept"]),
            helper.make_node("Not", ["kept"], ["outside"]),
            helper.make_node("Cast", ["outside"], ["changed"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["changed", "axes"], [CLIPPED], keepdims=0),
        ]
        axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
        wasted, initializers = _waste(work, self.weights.shape[0])
        return {
            MODEL: self._graph(
                MODEL, [*encode, decode, *score, *wasted], [w, wt, axes, one, zero, *ends, *initializers]
            ),
            ENCODER: self._graph(ENCODER, encode, [w, one, zero, *ends]),
            DECODER: self._graph(DECODER, [decode], [wt]),
        }

    def _graph(self, file: str, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> bytes:
        row, embedding = [self.weights.shape[0]], [self.weights.shape[1]]
        shapes = {INPUT: row, RECONSTRUCTION: row, FEATURE_ERROR: row, SCORE: [], RECONSTRUCTION_ERROR: [], CLIPPED: []}
        shapes |= {EMBEDDING: embedding, EMBEDDING_STDDEV: embedding}
        input_name, outputs = GRAPHS[file]
        if self.prior and EMBEDDING in outputs:
            outputs = (*outputs, EMBEDDING_STDDEV)

        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shapes[name]])

        graph = helper.make_graph(nodes, "g", [value(input_name)], [value(name) for name in outputs], initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _waste(work: int, width: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A chain of multiplications whose result, exactly zero, is added to the score."""
    if not work:
        return [helper.make_node("Identity", ["sum"], [SCORE])], []
    wide = np.random.default_rng(1).standard_normal((width, 512)).astype(np.float32)
    square = np.eye(512, dtype=np.float32)[::-1].copy()
    initializers = [
        numpy_helper.from_array(wide, "wide"),
        numpy_helper.from_array(square, "square"),
        numpy_helper.from_array(np.zeros(512, dtype=np.float32), "zeros"),
    ]
    nodes = [helper.make_node("MatMul", [INPUT, "wide"], ["waste0"])]
    nodes += [helper.make_node("MatMul", [f"waste{i}", "square"], [f"waste{i + 1}"]) for i in range(work)]
    nodes += [
        helper.make_node("MatMul", [f"waste{work}", "zeros"], ["nothing"]),
        helper.make_node("Add", ["sum", "nothing"], [SCORE]),
    ]
    return nodes, initializers


def manifest(
    model: Linear,
    graphs: dict[str, bytes],
    columns: Sequence[str | Column] | None = None,
    aside: AsideColumns | None = None,
) -> Manifest:
    """A manifest that fits these graphs; calibrated on 199 standard normal rows, with codes in categorical columns."""
    rng = np.random.default_rng(7)
    width = model.weights.shape[0]
    golden = rng.standard_normal((5, width)).astype(np.float32)
    calibration_rows = rng.standard_normal((199, width)).astype(np.float32)
    for i, column in enumerate(columns or ()):
        if isinstance(column, Column) and column.categories:
            calibration_rows[:, i] = rng.integers(1, column.width, len(calibration_rows))
    calibration = model.answers(calibration_rows)
    answers = model.answers(golden)
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in graphs.items()
    }
    made = Manifest(
        variant="vae" if model.prior else "basic",
        files=entries,
        row_shape=[width],
        columns=None if columns is None else [c if isinstance(c, Column) else Column(name=c) for c in columns],
        aside=aside or AsideColumns(),
        embedding_size=model.weights.shape[1],
        embedding_space_id=entries[ENCODER].sha256[:16],
        prior="standard_normal" if model.prior else None,
        scaling=Scaling(
            shift=Array.pack(np.zeros(())), scale=Array.pack(np.ones(())), low=-model.clip, high=model.clip
        ),
        score=ScoreDefinition(name="squared_error", formula="sum over features of (x - reconstruction)^2"),
        calibration=Calibration.from_scores(calibration[SCORE], 0.05),
        missing_values="fill" if model.fill else "refuse",
        quantization=Quantizations.of(calibration[EMBEDDING]),
        golden=GoldenRows(
            input=Array.pack(golden),
            outputs={name: Array.pack(values) for name, values in answers.items()},
            tolerance={FLOAT32: {name: Tolerance(atol=1e-5, rtol=1e-4) for name in answers}},
        ),
        provenance=Provenance(
            created=datetime(2026, 1, 1, tzinfo=UTC),
            data="standard normal rows",
            data_sha256="0" * 64,
            rows={"calibration": 199},
            seed=7,
            config={},
            versions={},
            metrics={},
        ),
    )
    return made.with_sketch(calibration_rows, calibration[SCORE], calibration[CLIPPED])


def publish(
    root: Path,
    name: str,
    model: Linear | None = None,
    *,
    work: int = 0,
    columns: Sequence[str | Column] | None = None,
    aside: AsideColumns | None = None,
    quantized: bool = True,
    damage: Callable[[Path], None] | None = None,
) -> int:
    """Publish a model as a trainer would, let `damage` break its folder, and return the version. quantized: whether it
    has int8 and binary embeddings, as versions of before have not."""
    model = model or Linear.random()
    graphs = model.graphs(work)

    def write(folder: Path) -> None:
        for file, data in graphs.items():
            (folder / file).write_bytes(data)
        told = manifest(model, graphs, columns, aside)
        if not quantized:
            told = told.model_copy(update={"quantization": None})
        (folder / layout.MANIFEST).write_text(told.model_dump_json())

    folder = layout.publish(root, name, write)
    if damage:
        damage(folder)
    return int(folder.name)
