"""pyarrow for what works with indices, or what to install where it is not there."""

from __future__ import annotations

try:
    import pyarrow as pa
except ModuleNotFoundError:
    raise ImportError(
        "pyarrow is not installed: pip install 'hourglass-serving[lancedb]' (or [postgres], [qdrant])", name="pyarrow"
    ) from None

__all__ = ["pa"]
