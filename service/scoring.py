"""What Score says of a row beside the graph's outputs, worked out once a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hourglass.contract.manifest import CLIPPED, SCORE, Manifest
from service.batcher import Run
from service.metrics import Scored
from service.pieces import Answer

P_VALUE, MISSING, UNKNOWN = "p_value", "missing", "unknown"
_OURS = {P_VALUE, MISSING, UNKNOWN}


def scored(run: Run, manifest: Manifest) -> Run:
    """The run, which gives on demand beside its own outputs P_VALUE, float32 [n], where SCORE is asked for too, and how
    many cells of each row are MISSING and how many categories UNKNOWN, int32 [n]."""

    def scored_run(rows: np.ndarray, outputs: Sequence[str]) -> Answer:
        answer = run(rows, [name for name in outputs if name not in _OURS])
        if P_VALUE in outputs:
            answer[P_VALUE] = manifest.calibration.p_values(answer[SCORE]).astype(np.float32)
        if MISSING in outputs or UNKNOWN in outputs:
            answer[MISSING], answer[UNKNOWN] = _counts(rows, manifest)
        return answer

    return scored_run


def count(scored: Scored, answer: Answer, is_anomaly: np.ndarray) -> None:
    """answer: with CLIPPED, MISSING and UNKNOWN. is_anomaly: bool [n]."""
    scored.rows.value += len(is_anomaly)
    scored.anomalies.value += int(np.count_nonzero(is_anomaly))
    for total, values in ((scored.clipped, CLIPPED), (scored.missing, MISSING), (scored.unknown, UNKNOWN)):
        if np.count_nonzero(answer[values]):  # a fifth of what the sum takes, and mostly there is none
            total.value += int(answer[values].sum())


def _counts(rows: np.ndarray, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    missing = unknown = np.zeros(len(rows), dtype=np.int32)
    if manifest.takes_missing:
        missing = np.isnan(rows).reshape(len(rows), -1).sum(axis=1, dtype=np.int32)
    if manifest.row_schema is not None:
        unknown = manifest.row_schema.unknown(rows)
    return missing, unknown
