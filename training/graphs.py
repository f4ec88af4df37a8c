"""torch -> ONNX: the three graphs of a published model, byte for byte the same at every export."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from hourglass.contract.manifest import (
    CLIPPED,
    DECODER,
    EMBEDDING,
    EMBEDDING_STDDEV,
    ENCODER,
    FEATURE_ERROR,
    GRAPHS,
    MODEL,
    RECONSTRUCTION,
    RECONSTRUCTION_ERROR,
    SCORE,
)
from training.autoencoder import Autoencoder
from training.errors import ExportError
from training.scaling import Scaling
from training.scoring import Score, row_means, row_sums

OPSET = 18
_BATCH = "batch"
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


class Served(nn.Module):
    """model.onnx: rows in input units -> its outputs by name, the reconstruction in input units."""

    def __init__(self, scaling: Scaling, autoencoder: Autoencoder, score: Score) -> None:
        super().__init__()
        self.scaling, self.autoencoder, self.score = scaling, autoencoder, score

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.scaling.row_shape or self.autoencoder.architecture.row_shape

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        scaled = self.scaling(rows)
        answers: dict[str, Tensor] = self.autoencoder(scaled)
        score, feature_error = self.score(scaled, answers)
        reconstruction = answers[RECONSTRUCTION]
        answers |= {
            RECONSTRUCTION: self.scaling.inverse(reconstruction),
            SCORE: score,
            FEATURE_ERROR: self.scaling.expansion.sums(feature_error),
            RECONSTRUCTION_ERROR: self._mean_squared_error(scaled, reconstruction),
            CLIPPED: self.scaling.clipped(rows),
        }
        return {name: answers[name] for name in outputs(MODEL, self.autoencoder)}

    def _mean_squared_error(self, scaled: Tensor, reconstruction: Tensor) -> Tensor:
        """Over the features of each row, or those columns whose cell is there: [n]."""
        squared, missing, sums = (scaled - reconstruction).square(), scaled.isnan(), self.scaling.expansion.sums
        if not self.scaling.missing:
            return row_means(sums(squared).flatten(1))
        present = row_sums((sums(missing.float()) == 0).float().flatten(1))
        return row_sums(sums(torch.where(missing, 0, squared)).flatten(1)) / present.clamp(min=1)

    def decided(self, rows: Tensor, clear: float) -> Tensor:
        """Which rows, float32 [n, *row_shape] in input units, two correct runtimes must answer alike: bool [n].

        clear: as in Autoencoder.decided.
        """
        scaled = self.scaling(rows)
        answers = self.autoencoder(scaled)
        decided = self.scaling.expansion.decided(self.scaling.unscaled(answers[RECONSTRUCTION]), clear)
        return decided & self.autoencoder.decided(scaled, clear) & self.score.decided(scaled, answers, clear)

    def units(self) -> dict[str, Tensor]:
        """What one unit is of those outputs whose size is not about 1; each broadcasts to its output."""
        units = self.score.units(self.autoencoder.architecture.row_shape)
        if FEATURE_ERROR in units and units[FEATURE_ERROR].ndim:  # a column adds up the errors of its numbers
            units[FEATURE_ERROR] = self.scaling.expansion.sums(units[FEATURE_ERROR].square()).sqrt()
        return {RECONSTRUCTION: self.scaling.units(), **units}


class Encoder(nn.Module):
    """encoder.onnx: rows in input units -> its outputs by name."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.scaling, self.autoencoder = served.scaling, served.autoencoder

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return self.autoencoder.embed(self.scaling(rows))


class Decoder(nn.Module):
    """decoder.onnx: embeddings -> reconstruction in input units."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.scaling, self.autoencoder = served.scaling, served.autoencoder

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        return {RECONSTRUCTION: self.scaling.inverse(self.autoencoder.decode(embedding))}


class _Answers(nn.Module):
    """The outputs of `module` as a tuple in the order of `names`, as the exporter wants them."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        answers = self.module(batch)
        return tuple(answers[name] for name in self.names)


def outputs(file: str, autoencoder: Autoencoder) -> tuple[str, ...]:
    """As Manifest.graph_outputs, before there is a manifest."""
    names = GRAPHS[file][1]
    return (*names, EMBEDDING_STDDEV) if autoencoder.prior and EMBEDDING in names else names


def graphs(served: Served) -> dict[str, bytes]:
    """The three files by name. Raises ExportError. Puts `served` into evaluation mode.

    encoder.onnx and decoder.onnx are cut out of model.onnx: the same weights and nodes, translated once.
    """
    whole = _to_onnx(served.eval(), outputs(MODEL, served.autoencoder))
    names = {file: outputs(file, served.autoencoder) for file in GRAPHS}
    models = {MODEL: whole, **{file: _cut(whole, file, names[file]) for file in (ENCODER, DECODER)}}
    return {file: _checked(model, names[file]) for file, model in models.items()}


def _to_onnx(served: Served, output_names: Sequence[str]) -> onnx_ir.Model:
    # Two rows: a batch of one would be taken for a constant.
    rows = torch.zeros(2, *served.row_shape)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it warns of every absent package it could have translated
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Answers(served, output_names).eval(),
                (rows,),
                input_names=[GRAPHS[MODEL][0]],
                output_names=list(output_names),
                opset_version=OPSET,
                dynamic_shapes=({0: _BATCH},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise ExportError(f"torch cannot export this model: {cause[0] if cause else error!r}") from error
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    return _stripped(program.model)


def _cut(whole: onnx_ir.Model, file: str, output_names: Sequence[str]) -> onnx_ir.Model:
    """What of `whole` leads from the file's input to its outputs.

    Everything inside is named anew, in the order of use: the names in `whole` count what the score needs too, and
    encoder.onnx's bytes say which embedding space it is, whatever the score.
    """
    try:
        graph = onnx_ir.convenience.extract(whole.graph, [GRAPHS[file][0]], output_names)
    except ValueError as error:
        raise ExportError(f"{file} cannot be cut out of {MODEL}: {error}") from None
    weights = dict.fromkeys(value for node in graph for value in node.inputs if value and value.is_initializer())
    graph.initializers.clear()
    for number, weight in enumerate(weights):
        weight.name = f"weight_{number}"
        graph.register_initializer(weight)
    inside = (value for node in graph for value in node.outputs if not value.is_graph_output())
    for number, value in enumerate(inside):
        value.name = f"value_{number}"
    for number, node in enumerate(graph):
        node.name = f"node_{number}"
    return onnx_ir.Model(graph, ir_version=whole.ir_version, producer_name=whole.producer_name)


def _stripped(model: onnx_ir.Model) -> onnx_ir.Model:
    """Without the exporter's notes, which hold source lines and paths of this machine."""
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return model


def _checked(model: onnx_ir.Model, output_names: Sequence[str]) -> bytes:
    if chance := sorted({node.op_type for node in model.graph.all_nodes()} & _RANDOM):
        raise ExportError(f"the graph draws random numbers ({', '.join(chance)}): its answers would not repeat")
    proto = onnx_ir.to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != _BATCH:
            raise ExportError(f"the graph fixed the number of rows of {value.name}")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the graph: {error}") from None
    assert [value.name for value in proto.graph.output] == list(output_names)
    stream = io.BytesIO()
    onnx.save_model(proto, stream)
    return stream.getvalue()
