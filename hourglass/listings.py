"""What `hourglass models` and `hourglass health` show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table

from hourglass.health import LIVENESS, SERVICE, Health
from hourglass.models import ModelInfo

_WIDE = 100


def models_table(models: Sequence[ModelInfo], console: Console) -> Table:
    table = Table()
    for header in ("model", "version", "variant", "row", "embedding", "space id", "device", "created"):
        table.add_column(header, overflow="fold")
    for info in models:
        table.add_row(
            info.model.name,
            f"{info.model.version}",
            info.variant,
            "×".join(map(str, info.row_shape)),
            f"{info.embedding_size}",
            info.model.embedding_space_id,
            info.device,
            info.created[:10],
        )
    if console.width < _WIDE:
        table.columns = table.columns[:6]  # device and day give way to names, which are never cut
    return table


def models_json(models: Sequence[ModelInfo]) -> str:
    """One document: {"models": [...]}, each with the names of `ModelInfo`, the newest version of a model first."""
    return json.dumps({"models": to_jsonable_python(models, inf_nan_mode="null")}, indent=2)


def health_table(health: Health) -> Table:
    """By the names that grpc.health.v1 knows."""
    named = {"readiness": health.ready, LIVENESS: health.live, SERVICE: health.service}
    table = Table("name", "health")
    for name, serves in (named | {f"model/{name}": serves for name, serves in health.models.items()}).items():
        table.add_row(name, "serving" if serves else "not serving")
    return table


def health_json(health: Health) -> str:
    """One document, with the names of `Health`, and `ok`."""
    return json.dumps({"ok": health.ok, **asdict(health)}, indent=2)
