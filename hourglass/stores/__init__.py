"""Vector stores: one thin adapter a file, whose library is imported when a URI names it.

lancedb://PATH, or just a path; postgresql://…; qdrant://HOST, qdrant+https://HOST or qdrant:///PATH; behind '#' the
table or collection.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hourglass.stores.errors import StoreError, StoreUnavailable
from hourglass.stores.record import Record
from hourglass.stores.store import Store

__all__ = ["Record", "Store", "StoreError", "StoreUnavailable", "open_store"]

_DEFAULT_NAME = "embeddings"
# What all stores can call a table.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_OTHER_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+]+:")  # no drive of Windows


def open_store(uri: str) -> Store:
    """The index that the URI names, whether it is there or not. Raises StoreError."""
    address, mark, name = uri.rpartition("#")
    if not mark:
        address, name = uri, _DEFAULT_NAME
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = "lancedb", address
    if scheme not in _OPEN:
        raise StoreError(
            f"no store is called {scheme!r}: write {', '.join(f'{known}://…' for known in _OPEN)}, or a path"
        )
    if scheme in ("lancedb", "qdrant", "qdrant+https") and not rest.strip("/ "):  # PostgreSQL's may be in PGHOST
        where = "a host or a folder" if scheme != "lancedb" else "a folder ('.' is the current one)"
        raise StoreError(f"the index's URI does not say where it is: name {where} before '#'")
    if scheme == "lancedb" and _OTHER_SCHEME.match(rest):
        # Not shown: 'postgresql:/' with its password, perhaps.
        raise StoreError(
            "a folder is not called so: write lancedb://PATH, or of another store its '://' (a folder that has a ':': "
            "./PATH)"
        )
    if not _NAME.fullmatch(name):
        # Not shown: it is part of a password that has a '#'.
        raise StoreError(
            "the index's name, behind '#', has letters, digits, '_' and '-', at most 63, and begins with a letter (a "
            "'#' that is part of a URI is written %23)"
        )
    extra, open_ = _OPEN[scheme]
    try:
        return open_(f"{scheme}://{rest}", name)
    except ImportError as error:
        package = (error.name or extra).partition(".")[0]
        raise StoreError(f"{package} is not installed: pip install 'hourglass-serving[{extra}]'") from None


def _lance(uri: str, name: str) -> Store:
    from hourglass.stores.lance import LanceStore

    return LanceStore(uri, name)


def _postgres(uri: str, name: str) -> Store:
    from hourglass.stores.postgres import PostgresStore

    return PostgresStore(uri, name)


def _qdrant(uri: str, name: str) -> Store:
    from hourglass.stores.qdrant import QdrantStore

    return QdrantStore(uri, name)


# Scheme -> the extra of its library, and what opens it.
_OPEN: dict[str, tuple[str, Callable[[str, str], Store]]] = {
    "lancedb": ("lancedb", _lance),
    "postgresql": ("postgres", _postgres),
    "postgres": ("postgres", _postgres),
    "qdrant": ("qdrant", _qdrant),
    "qdrant+https": ("qdrant", _qdrant),
}
