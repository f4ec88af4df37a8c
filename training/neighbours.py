"""Exact nearest neighbours, a block at a time: memory follows the block, not the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_BLOCK = 2**23  # distances, or numbers of candidates, at a time: 32 MiB
_QUERIES = 1_000
_TIED = 1 + 1e-5  # distances of float32 that rounding alone keeps apart

Prepare = Callable[[np.ndarray], np.ndarray]


def nearest(
    index: np.ndarray,
    queries: np.ndarray,
    k: int,
    prepare: Prepare = lambda rows: rows,
    advance: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Positions in `index` of each query's k nearest by Euclidean distance, the nearest first: int64 [queries, k].

    index, queries: [n, ...] and [m, ...]. prepare: makes of some of either what is compared, [rows, numbers], looked at
    as float32; of bits, 0 and 1, it is the Hamming distance. advance: called with how many rows of the index have been
    compared since its last call.
    """
    block = max(k, _BLOCK // min(len(queries), _QUERIES))
    asked = _floats(prepare(queries))
    # Far from 0, squares are large and their differences all rounding.
    middle = asked.mean(dim=0)
    asked = asked - middle
    distances, positions = torch.empty((len(queries), 0)), torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(index), block):
        rows = _floats(prepare(index[start : start + block])) - middle
        # Squared, without the query's own part, which orders nothing.
        lengths = rows.square().sum(dim=1)
        merged = []
        for first in range(0, len(queries), _QUERIES):
            some = slice(first, first + _QUERIES)
            new = torch.addmm(lengths, asked[some], rows.T, alpha=-2)
            merged.append(_merged(distances[some], positions[some], new, start, k))
        distances, positions = (torch.cat(parts) for parts in zip(*merged, strict=True))
        advance(len(rows))
    return positions.numpy()


def reranked(candidates: np.ndarray, index: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of each query's candidates, the nearest first: int64 [queries, k].

    candidates: int64 [queries, c], positions in `index`, [n, numbers]; queries: [m, numbers].
    """
    order = np.argsort(squared_distances(candidates, index, queries), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(candidates, order, axis=1)


def squared_distances(found: np.ndarray, index: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of each query to the rows found for it: float32 [queries, found]."""
    step = max(1, _BLOCK // (found.shape[1] * index.shape[1]))
    parts = []
    for start in range(0, len(queries), step):
        rows = index[found[start : start + step]].astype(np.float32)
        difference = rows - queries[start : start + step, None].astype(np.float32)
        parts.append(np.einsum("qkd,qkd->qk", difference, difference))
    return np.concatenate(parts)


def recall(found: np.ndarray, exact: np.ndarray, index: np.ndarray, queries: np.ndarray) -> float:
    """Share of the rows found that are among the nearest: no further than the last of `exact`, in numbers of `index`.

    found, exact: int64 [queries, k]. By distance, since of rows that are alike any will do.
    """
    furthest = squared_distances(exact, index, queries).max(axis=1, keepdims=True)
    return float((squared_distances(found, index, queries) <= furthest * _TIED).mean())


def alike(found: np.ndarray, index_labels: np.ndarray, query_labels: np.ndarray) -> np.ndarray:
    """Share of each query's rows found that have its label: float64 [queries]. found: int64 [queries, k]."""
    shares: np.ndarray = (index_labels[found] == query_labels[:, None]).mean(axis=1)
    return shares


def _floats(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _merged(distances: Tensor, positions: Tensor, new: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of those kept and of the new ones, whose positions begin at `start`."""
    best = new.topk(min(k, new.shape[1]), dim=1, largest=False)
    distances = torch.cat([distances, best.values], dim=1)
    positions = torch.cat([positions, best.indices + start], dim=1)
    best = distances.topk(min(k, distances.shape[1]), dim=1, largest=False)
    return best.values, positions.gather(1, best.indices)
