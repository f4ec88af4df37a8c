"""onnxruntime, as training uses it: to check what it exports and to evaluate what was published.

Imported here and nowhere else in training.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

ONNXRUNTIME_VERSION: str = onnxruntime.__version__
_ROWS = 1000  # of one run: memory follows these, not the data


class Graph:
    """One of a model's ONNX files, on the CPU."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Every output by name, in one run. rows: float32 [n, ...]; each output float32 [n, ...]."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: rows}), strict=True))

    def run_all(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """As `run`, any number of rows, at least one: some at a time."""
        parts = [self.run(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
