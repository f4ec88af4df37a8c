"""kill -9 half way, and again: nothing is missing, nothing twice, and what was there is not embedded again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hourglass.cli import run
from hourglass.stores import open_store
from tests.hourglass.fake import Fake, embedding

ROWS, MESSAGE, KILLED_AT = 280, 20, 12
X = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
IDS = [f"P-{i}" for i in range(ROWS)]
# The program, as it is but for how many rows it writes at once: two messages of them.
PROGRAM = f"""
import os
os.environ["GRPC_VERBOSITY"] = "NONE"  # as main() does, before gRPC is loaded
from hourglass import indexing
indexing._CHUNK_ROWS = {2 * MESSAGE}
from hourglass.__main__ import main
{{}}
main()
"""
# It kills itself while it writes for the third time: before the transaction ends, or some points are there.
WITHIN = {
    "postgresql": """
from hourglass.stores.postgres import PostgresStore
execute, statements = PostgresStore._execute, []
def _execute(self, statement, *parts):
    statements.append(statement)
    if sum(statement.startswith("INSERT") for statement in statements) == 3:
        os.kill(os.getpid(), 9)
    execute(self, statement, *parts)
PostgresStore._execute = _execute
""",
    "qdrant": """
from hourglass.stores import qdrant
qdrant._BATCH = 16
upsert, calls = qdrant.QdrantClient.upsert, []
def _upsert(self, *arguments, **settings):
    calls.append(1)
    if len(calls) == 3 * 3 - 1:
        os.kill(os.getpid(), 9)
    return upsert(self, *arguments, **settings)
qdrant.QdrantClient.upsert = _upsert
""",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"key": IDS, "n": np.arange(ROWS), **dict(zip("abcd", X.T, strict=True))}), path)
    return path


@pytest.fixture
def command(file: Path, to: str) -> Callable[[Fake], list[str]]:
    flags = ["--model", "m", "--id", "key", "--payload", "n", "--to", to]
    return lambda fake: ["embed", str(file), *flags, "--server", fake.address]


def embedded(fake: Fake) -> int:
    return sum(request.tensor.shape[0] for request in fake.requests)


def contents(to: str) -> list[dict[str, Any]]:
    store = open_store(to)
    assert store.record() is not None
    found = store.nearest(np.zeros((1, 2), np.float32), 2 * ROWS)
    store.close()
    return found.to_pylist()


@pytest.fixture
def halted(start: Callable[..., Fake]) -> Iterator[tuple[Fake, threading.Event, threading.Event]]:
    """A server that does not answer its 12th message: it says that it came, and waits until it may go on."""
    came, go_on = threading.Event(), threading.Event()

    def before(request: Any) -> None:
        if len(fake.requests) >= KILLED_AT:
            came.set()
            go_on.wait(60)

    fake = start(columns=("a", "b", "c", "d"), max_rows=MESSAGE, before=before)
    yield fake, came, go_on
    go_on.set()


def test_killed_and_begun_again(
    halted: tuple[Fake, threading.Event, threading.Event], command: Callable[[Fake], list[str]], to: str
) -> None:
    fake, came, go_on = halted
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(""), *command(fake)], stderr=subprocess.PIPE, text=True
    )
    assert came.wait(60)
    process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -9, said
    go_on.set()

    there = contents(to)
    # At most four messages were under way, and two writes of two messages.
    assert MESSAGE * (KILLED_AT - 8) <= len(there) <= MESSAGE * KILLED_AT
    begun_again(fake, command(fake), to, len(there))


def test_interrupted_and_begun_again(
    halted: tuple[Fake, threading.Event, threading.Event], command: Callable[[Fake], list[str]], to: str
) -> None:
    fake, came, go_on = halted
    code = PROGRAM.format("")
    process = subprocess.Popen([sys.executable, "-c", code, *command(fake)], stderr=subprocess.PIPE, text=True)
    assert came.wait(60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)  # while the server still does not answer
    assert (process.returncode, said) == (130, "hourglass: interrupted: run the same command again to go on\n")
    go_on.set()
    begun_again(fake, command(fake), to, len(contents(to)))


@pytest.mark.parametrize(("place", "there"), [("postgresql", 80), ("qdrant", 96)], indirect=["place"])
def test_killed_while_it_writes(
    start: Callable[..., Fake], command: Callable[[Fake], list[str]], to: str, there: int
) -> None:
    fake = start(columns=("a", "b", "c", "d"), max_rows=MESSAGE)
    code = PROGRAM.format(WITHIN[to.partition(":")[0]])
    done = subprocess.run([sys.executable, "-c", code, *command(fake)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert len(contents(to)) == there
    begun_again(fake, command(fake), to, there)


def begun_again(fake: Fake, command: list[str], to: str, there: int) -> None:
    fake.requests.clear()
    assert run(command) == 0
    found = contents(to)
    assert sorted(row["id"] for row in found) == sorted(IDS)
    assert embedded(fake) == ROWS - there
    for row in found:
        i = int(row["id"].removeprefix("P-"))
        assert row["n"] == i
        assert row["distance"] == pytest.approx(np.linalg.norm(embedding(X[i : i + 1])), rel=1e-6)

    fake.requests.clear()
    assert run(command) == 0
    assert embedded(fake) == 0
