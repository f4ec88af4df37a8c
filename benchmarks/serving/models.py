"""The models that are served here: what they learned does not matter, their size does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from hourglass.v1 import autoencoder_pb2 as pb
from service.oip import open_inference_pb2 as oip

_SCORED = ("score", "p_value", "is_anomaly", "reconstruction_error")
COPIES = 10  # of the table, for mixed traffic
_REQUESTS: Mapping[str, type[Message]] = {
    "Score": pb.ScoreRequest,
    "Embed": pb.EmbedRequest,
    "Denoise": pb.DenoiseRequest,
}


@dataclass(frozen=True)
class Model:
    name: str
    title: str
    shape: tuple[int, ...]
    settings: tuple[str, ...]

    def rows(self, count: int) -> np.ndarray:
        """float32 [count, *shape]"""
        return np.random.default_rng(0).random((count, *self.shape), dtype=np.float32)

    def request(self, method: str, rows: int, name: str | None = None) -> bytes:
        values = self.rows(rows)
        tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes())
        return _REQUESTS[method](model=name or self.name, tensor=tensor).SerializeToString()

    def open_request(self, rows: int) -> bytes:
        """A ModelInfer of the same rows, for what Score answers as well."""
        values = self.rows(rows)
        request = oip.ModelInferRequest(model_name=self.name, raw_input_contents=[values.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=values.shape)
        request.outputs.extend(oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in _SCORED)
        return request.SerializeToString()


MLP = Model("mlp", "MLP 784-512-256-32", (784,), ("--hidden", "512,256", "--embedding-dim", "32"))
TABLE = Model("table", "table 30-64-16", (30,), ("--hidden", "64", "--embedding-dim", "16"))
CONV = Model("conv", "conv 1×64×64", (64, 64), ("--network", "conv", "--embedding-dim", "32"))
MODELS = (MLP, TABLE, CONV)
_COMMON = ("--variant", "basic", "--score", "mean_squared_error", "--epochs", "1")
_TRAINING_ROWS = 1_000


def publish(folder: Path) -> Mapping[str, Path]:
    """Folders, in half a minute. `all`: with the three models; `mlp`: with one; `half`: with that in half precision;
    `mixed`: with copies of the table."""
    exported = {name: folder / name for name in ("all", "mlp", "half", "mixed")}
    for model in MODELS:
        rows = folder / f"{model.name}.npy"
        np.save(rows, model.rows(_TRAINING_ROWS))
        command = [sys.executable, "-m", "training", "fit", "--data", str(rows), "--name", model.name, *_COMMON]
        folders = ["--exported", str(exported["all"]), "--runs", str(folder / "runs")]
        subprocess.run([*command, *model.settings, *folders], check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(exported["all"] / MLP.name, exported["mlp"] / MLP.name)
    (run,) = (folder / "runs" / MLP.name).iterdir()
    command = [sys.executable, "-m", "training", "export", "--run", str(run), "--precision", "float16"]
    subprocess.run([*command, "--exported", str(exported["half"])], check=True, stdout=subprocess.DEVNULL)
    for i in range(COPIES):
        shutil.copytree(exported["all"] / TABLE.name, exported["mixed"] / f"{TABLE.name}-{i}")
    return exported
