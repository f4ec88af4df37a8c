from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import Serve

# Runs in an environment of its own: tests/integration/test_triton_client.py.
collect_ignore = ["triton"]

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def serve() -> Iterator[Callable[..., Serve]]:
    """Start hourglass-serve processes on free ports; they are stopped when the test ends."""
    started: list[Serve] = []

    def start(exported: Path | str, *flags: str, **environment: str) -> Serve:
        server = Serve(exported, *flags, **environment)
        started.append(server)
        return server.wait_ready()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("HOURGLASS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "adbench").is_dir():
        pytest.skip("the shared data is missing: set HOURGLASS_DATA")
    return folder
