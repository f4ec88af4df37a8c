"""`hourglass health`, `hourglass models --json`: what a server says of itself, to programs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hourglass import AsyncClient, Client, Health, ModelInfo
from hourglass.cli import run
from hourglass.contract.manifest import AsideColumns
from hourglass.contract.schema import Column
from tests import artefacts
from tests.processes import Serve

COLUMNS = (
    Column(name="größe"),
    Column(name="site", type="categorical", categories=("a", "b")),
    Column(name="x"),
    Column(name="y"),
)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path, "line")
    artefacts.publish(tmp_path, "line")
    artefacts.publish(tmp_path, "table", columns=COLUMNS, aside=AsideColumns(id="serial"))
    return tmp_path


def test_health_is_told_until_the_end(
    exported: Path, serve: Callable[..., Serve], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(exported, "--drain-seconds", "600")
    command = ["health", "--server", server.address]

    async def awaited() -> Health:
        async with AsyncClient(server.address) as client:
            return await client.health()

    with Client(server.address) as client:
        assert client.health() == asyncio.run(awaited()) == Health(True, True, True, {"line": True, "table": True})
        assert run(command) == 0
        shown = capsys.readouterr().out
        for name in ("readiness", "liveness", "hourglass.v1.Autoencoder", "model/line", "model/table"):
            assert any(name in line and " serving" in line for line in shown.splitlines()), shown
        server.terminate()
        server.wait_logged("draining")
        drained = Health(ready=False, live=True, service=False, models={"line": False, "table": False})
        assert client.health() == asyncio.run(awaited()) == drained
    assert run([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False, **dataclasses.asdict(drained)}
    server.kill()
    assert run(command) == 1
    assert "no server at" in capsys.readouterr().err


def test_models_are_one_json_document(
    exported: Path, serve: Callable[..., Serve], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(exported)
    assert run(["models", "--json", "--server", server.address]) == 0
    told = json.loads(capsys.readouterr().out)["models"]
    assert [(info["model"]["name"], info["model"]["version"]) for info in told] == [
        ("line", 2),
        ("line", 1),
        ("table", 1),
    ]
    table = told[2]
    assert set(table) == {field.name for field in dataclasses.fields(ModelInfo)}
    with Client(server.address) as client:
        info = client.model("table")
    assert table["model"] == dataclasses.asdict(info.model)
    assert table["calibration"] == dataclasses.asdict(info.calibration)
    assert table["columns"] == ["größe", "site", "x", "y"]
    assert table["schema"][1] == {"name": "site", "type": "categorical", "categories": ["a", "b"]}
    assert table["aside"] == {"label": None, "id": "serial", "time": None, "ignored": []}
    assert table["window"] is None
    assert table["encodings"] == list(info.encodings)
    assert (table["row_shape"], table["embedding_size"]) == ([4], 2)
