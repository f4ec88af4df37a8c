"""Training on rows among which there are anomalies: each step leaves out the rows that the model repeats worst.

Inliers are learned first, so that a large loss points at anomalies (Zhou & Paffenroth 2017, "Anomaly detection with
robust deep autoencoders"; Kim et al. 2024, "ALTBI", which trims a batch's largest losses as here). The share is a
trimming constant, not an estimate of how many anomalies there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hourglass.contract.manifest import RECONSTRUCTION
from training.autoencoder import Autoencoder

KEPT = 0.9
# Until the model knows ordinary rows, a large loss says nothing: of all epochs.
WARM_UP = 0.1


@torch.no_grad()
def typical(model: Autoencoder, rows: Tensor) -> Tensor:
    """The 90 % of rows, at least one, that `model` repeats best: [n, *row_shape] -> [m, *row_shape], scaled units."""
    errors = (model(rows)[RECONSTRUCTION] - rows).square().flatten(1).nansum(dim=1)
    best = errors.topk(max(1, round(KEPT * len(rows))), largest=False).indices
    return rows.index_select(0, best.sort().values)
