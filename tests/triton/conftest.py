"""A suite of Triton's own client against a running server: tests/integration/test_triton_client.py starts both.

It runs in an environment without Hourglass, and so knows nothing of the server but what its address tells, and the
closed form of its models: weights.json beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton


class Model:
    """A linear autoencoder: embedding = x W, reconstruction = x W Wᵀ, score = the sum of squared errors."""

    def __init__(self, name: str, weights: list[list[float]]) -> None:
        self.name = name
        self.weights = np.array(weights, dtype=np.float32)
        self.width = len(self.weights)

    def rows(self, n: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, self.width)).astype(np.float32)

    def embedding(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights

    def score(self, x: np.ndarray) -> np.ndarray:
        return ((x - x @ self.weights @ self.weights.T) ** 2).sum(axis=1)


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """By name, the newest version of each."""
    weights: dict[str, Any] = json.loads(Path(os.environ["HOURGLASS_TRITON_WEIGHTS"]).read_text())
    return {name: Model(name, values) for name, values in weights.items()}


@pytest.fixture(scope="session")
def address() -> str:
    return os.environ["HOURGLASS_TRITON_ADDRESS"]


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as connected:
        yield connected
