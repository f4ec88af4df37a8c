"""The weights a published model was exported from: some measures cannot do without."""

from __future__ import annotations

import numpy as np
import torch

from hourglass.contract.manifest import EMBEDDING, EMBEDDING_STDDEV, RECONSTRUCTION
from training import checkpoint
from training.autoencoder import Autoencoder
from training.errors import RunError
from training.evaluation.published import Published
from training.fit import build
from training.run import Run
from training.scaling import Scaling


def weights_of(run: Run, model: Published) -> Autoencoder:
    """The best weights of the run, which give the answers of the published model. Raises RunError."""
    manifest = model.manifest
    if run.data_sha256 != manifest.provenance.data_sha256:
        raise RunError(f"{run.folder}: learned from other rows than {model.folder}: --run is the run that it came from")
    autoencoder = build(run.config, tuple(manifest.row_shape), manifest.row_schema)
    checkpoint.load_best(run.checkpoint, autoencoder)
    if not _answers_alike(autoencoder, model):
        raise RunError(
            f"{run.folder}: its weights do not give the answers of {model.folder}: --run is the run that it came from, "
            "not trained on since"
        )
    return autoencoder.eval()


@torch.inference_mode()
def _answers_alike(autoencoder: Autoencoder, model: Published) -> bool:
    """To the golden rows: the proof that a server asks for, but for the score, which has learned from rows itself."""
    scaling, golden = Scaling.published(model.manifest), model.manifest.golden
    answers = autoencoder.eval()(scaling(torch.from_numpy(golden.input.unpack().copy())))
    answers |= {RECONSTRUCTION: scaling.inverse(answers[RECONSTRUCTION])}
    for name in {EMBEDDING, EMBEDDING_STDDEV, RECONSTRUCTION} & golden.outputs.keys():
        expected, tolerance = golden.outputs[name], model.manifest.tolerance[name]
        if name not in answers or list(answers[name].shape) != expected.shape:
            return False
        if not np.allclose(answers[name].numpy(), expected.unpack(), rtol=tolerance.rtol, atol=tolerance.atol):
            return False
    return True
