"""The Python of docs/client.md, typed in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hourglass
from hourglass.contract.schema import Column
from tests import artefacts
from tests.conftest import REPOSITORY
from tests.processes import Serve

COLUMNS = (
    Column(name="pressure"),
    Column(name="site", type="categorical", categories=("north", "south")),
    Column(name="open", type="boolean"),
)


def test_the_pages_python_runs(tmp_path: Path, serve: Callable[..., Serve], monkeypatch: pytest.MonkeyPatch) -> None:
    pumps, faces = artefacts.Linear.random(width=3, fill=True), artefacts.Linear.random(prior=True)
    artefacts.publish(tmp_path / "exported", "pumps", pumps, columns=COLUMNS)
    artefacts.publish(tmp_path / "exported", "faces", faces)
    server = serve(tmp_path / "exported")
    section = (REPOSITORY / "docs" / "client.md").read_text().split("\n## ")[1]
    assert section.startswith("Python\n")
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) >= 4
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"pressure": [7.1, 6.9], "site": ["north", None], "open": [True, False]}), "pumps.parquet")
    rows = np.array([[7.1, 1, 1], [6.9, 2, 0]], dtype=np.float32)
    names: dict[str, Any] = {"rows": rows, "Client": hourglass.Client, "AsyncClient": hourglass.AsyncClient}

    async def handle(block: str) -> None:
        exec(block, names)
        assert await names["handle"](rows[0]) in (True, False)
        await names["client"].close()

    for block in blocks:
        typed = block.replace("models.example:8001", server.address)
        if "await" in block:
            asyncio.run(handle(typed))
        else:
            with hourglass.Client(server.address) as names["client"]:
                exec(typed, names)
    assert len(names["scores"].score) == 2
