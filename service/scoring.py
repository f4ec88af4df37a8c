"""What Score says of a row beside the graph's outputs, worked out once a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hourglass.contract.manifest import SCORE, Manifest
from service.batcher import Run
from service.pieces import Answer

P_VALUE, MISSING, UNKNOWN = "p_value", "missing", "unknown"
_OURS = {P_VALUE, MISSING, UNKNOWN}


def scored(run: Run, manifest: Manifest) -> Run:
    """The run, which gives beside its own outputs P_VALUE, float32 [n], and how many cells of each row are MISSING and
    how many categories UNKNOWN, int32 [n]."""

    def scored_run(rows: np.ndarray, outputs: Sequence[str]) -> Answer:
        answer = run(rows, [name for name in outputs if name not in _OURS])
        if SCORE in outputs:
            answer[P_VALUE] = manifest.calibration.p_values(answer[SCORE]).astype(np.float32)
            answer[MISSING], answer[UNKNOWN] = _counts(rows, manifest)
        return answer

    return scored_run


def _counts(rows: np.ndarray, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    missing = unknown = np.zeros(len(rows), dtype=np.int32)
    if manifest.takes_missing:
        missing = np.isnan(rows).reshape(len(rows), -1).sum(axis=1, dtype=np.int32)
    if manifest.row_schema is not None:
        unknown = manifest.row_schema.unknown(rows)
    return missing, unknown
