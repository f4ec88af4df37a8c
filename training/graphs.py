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

from hourglass.contract.manifest import DECODER, ENCODER, FEATURE_ERROR, GRAPHS, MODEL, RECONSTRUCTION, SCORE
from training.autoencoder import Autoencoder
from training.errors import ExportError
from training.scaling import Scaling
from training.scoring import Score

OPSET = 18
_BATCH = "batch"
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


class Served(nn.Module):
    """model.onnx: rows in input units -> embedding, reconstruction (input units), score, feature_error."""

    def __init__(self, scaling: Scaling, autoencoder: Autoencoder, score: Score) -> None:
        super().__init__()
        self.scaling, self.autoencoder, self.score = scaling, autoencoder, score

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        scaled = self.scaling(rows)
        answers: dict[str, Tensor] = self.autoencoder(scaled)
        score, feature_error = self.score(scaled, answers)
        reconstruction = self.scaling.inverse(answers[RECONSTRUCTION])
        return {**answers, RECONSTRUCTION: reconstruction, SCORE: score, FEATURE_ERROR: feature_error}


class _Answers(nn.Module):
    """The outputs of `served` as a tuple in the order of `names`, as the exporter wants them."""

    def __init__(self, served: Served, names: Sequence[str]) -> None:
        super().__init__()
        self.served, self.names = served, names

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        answers = self.served(rows)
        return tuple(answers[name] for name in self.names)


class Encoder(nn.Module):
    def __init__(self, served: Served) -> None:
        super().__init__()
        self.scaling, self.autoencoder = served.scaling, served.autoencoder

    def forward(self, rows: Tensor) -> Tensor:
        return self.autoencoder.encode(self.scaling(rows))


class Decoder(nn.Module):
    def __init__(self, served: Served) -> None:
        super().__init__()
        self.scaling, self.autoencoder = served.scaling, served.autoencoder

    def forward(self, embedding: Tensor) -> Tensor:
        return self.scaling.inverse(self.autoencoder.decode(embedding))


def graphs(served: Served) -> dict[str, bytes]:
    """The three files by name. Raises ExportError. Puts `served` into evaluation mode."""
    served.eval()
    architecture = served.autoencoder.architecture
    # Two rows: a batch of one would be taken for a constant.
    rows, embedding = torch.zeros(2, *architecture.row_shape), torch.zeros(2, architecture.embedding_dim)
    promised = GRAPHS[MODEL][1]
    names = (*promised, *(name for name in served(rows) if name not in promised))
    return {
        MODEL: _to_onnx(_Answers(served, names), rows, GRAPHS[MODEL][0], names),
        ENCODER: _to_onnx(Encoder(served), rows, *GRAPHS[ENCODER]),
        DECODER: _to_onnx(Decoder(served), embedding, *GRAPHS[DECODER]),
    }


def _to_onnx(module: nn.Module, example: Tensor, name: str, outputs: Sequence[str]) -> bytes:
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it warns of every absent package it could have translated
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                input_names=[name],
                output_names=list(outputs),
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
    return _checked(_stripped(program.model), outputs)


def _stripped(model: onnx_ir.Model) -> onnx_ir.Model:
    """Without the exporter's notes, which hold source lines and paths of this machine."""
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return model


def _checked(model: onnx_ir.Model, outputs: Sequence[str]) -> bytes:
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
    assert [value.name for value in proto.graph.output] == list(outputs)
    stream = io.BytesIO()
    onnx.save_model(proto, stream)
    return stream.getvalue()
