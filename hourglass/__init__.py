"""Hourglass: ask a server of autoencoders for embeddings, denoised rows and anomaly scores.

    from hourglass import Client

Only the base dependencies are needed: neither torch nor onnxruntime, nor the `files` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hourglass.client import AsyncClient, Client
    from hourglass.columns import RowsLike
    from hourglass.contract.calibration import benjamini_hochberg
    from hourglass.contract.quantization import Encoding
    from hourglass.errors import HourglassError
    from hourglass.health import Health
    from hourglass.messages import Embeddings, Generated, ModelDrift, Reconstructions, Scores, TopFeatures
    from hourglass.models import Calibration, ModelInfo, ModelVersion

__all__ = [
    "AsyncClient",
    "Calibration",
    "Client",
    "Embeddings",
    "Encoding",
    "Generated",
    "Health",
    "HourglassError",
    "ModelDrift",
    "ModelInfo",
    "ModelVersion",
    "Reconstructions",
    "RowsLike",
    "Scores",
    "TopFeatures",
    "benjamini_hochberg",
]


if not TYPE_CHECKING:  # to a type checker the names above are all there are

    def __getattr__(name: str) -> Any:
        # When first asked for: training and service use other parts of this package and need not load a client.
        if name not in __all__:
            raise AttributeError(f"module 'hourglass' has no attribute {name!r}")
        from hourglass import client, columns, errors, health, messages, models
        from hourglass.contract import calibration, quantization

        homes = (client, columns, errors, health, messages, models, calibration, quantization)
        return next(getattr(home, name) for home in homes if name in vars(home))
