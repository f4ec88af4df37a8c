"""What a store can end with."""

from __future__ import annotations


class StoreError(Exception):
    """A store or an index that will not do. One line: which, without what is secret of its URI, why, and what to do."""


class StoreUnavailable(StoreError):
    """The store, or the way to it, failed, or another run is in the way."""
