"""What embeddings are worth to vector search: whether fewer bytes find the same rows, and whether these are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.table import Table

from hourglass.contract.quantization import Quantization, float16, normalized
from training.detection import drawn
from training.errors import DataError
from training.evaluation.published import Published
from training.evaluation.section import Numbers, Section, table
from training.evaluation.subject import Subject
from training.neighbours import alike, nearest, recall, reranked
from training.progress import Progress

NEIGHBOURS = 10
# Of the rows, which ask; and how many of the others are indexed at most.
_SHARE, _QUERIES, _INDEXED = 0.1, 2_000, 100_000
# Of the indexed rows, which BINARY finds for INT8 to rank: enough for nine of ten nearest.
_CANDIDATE_SHARE, _CANDIDATES = 0.01, 100
_CERTAIN = 2  # standard errors
ROW = "row"
RERANKED = "binary_reranked_by_int8"
_HOW = ("plain", "normalized")

# By what is compared; embeddings as they are, and of length 1.
_ByName = Mapping[str, float]


@dataclass(frozen=True)
class _Rows:
    """Positions in the data: what is indexed, and what asks for its nearest. candidates: of BINARY, of a query."""

    indexed: np.ndarray
    queries: np.ndarray
    candidates: int

    @classmethod
    def of(cls, rows: int, source: str) -> _Rows:
        """Raises DataError when too few would be indexed."""
        queries = drawn(rows, min(_QUERIES, math.ceil(_SHARE * rows)))
        others = np.setdiff1d(np.arange(rows), queries)
        if len(others) < NEIGHBOURS:
            raise DataError(
                f"{source}: of {rows} rows, --search indexes {len(others)} and asks for the nearest {NEIGHBOURS} of "
                f"each other one: at least {NEIGHBOURS + 2} rows are needed"
            )
        indexed = others[drawn(len(others), _INDEXED)]
        candidates = max(_CANDIDATES, math.ceil(_CANDIDATE_SHARE * len(indexed)))
        return cls(indexed, queries, min(candidates, len(indexed)))


def measure(subject: Subject, progress: Progress) -> Section:
    """On all rows but those that trained the model: some ask for their nearest, the others are indexed.

    Raises DataError when the rows are too few.
    """
    model, data = subject.model, subject.whole
    rows = _Rows.of(len(data.rows), data.source)
    indexed, asked = data.rows[rows.indexed], data.rows[rows.queries]
    labels = data.labels if subject.labelled else None
    quantizations = model.manifest.quantization
    recalls: dict[str, _ByName] = {}
    shares: dict[str, dict[str, np.ndarray]] = {}
    searches = len(_HOW) * ((4 if quantizations else 2) + (labels is not None))
    with progress.bar("measuring search, rows compared", searches * len(indexed)) as advance:
        embeddings = model.embed(indexed), model.embed(asked)
        for how in _HOW:
            index, queries = (_brought(some, how) for some in embeddings)
            quantization: Quantization | None = getattr(quantizations, how, None)
            found = dict(_found(index, queries, quantization, rows.candidates, advance))
            recalls[how] = {name: recall(these, found["float32"], index, queries) for name, these in found.items()}
            if labels:
                features = partial(_features, model, how)
                row = nearest(indexed, asked, NEIGHBOURS, features, advance)
                of_rows, of_queries = labels.numbers[rows.indexed], labels.numbers[rows.queries]
                shares[how] = {name: alike(these, of_rows, of_queries) for name, these in {ROW: row, **found}.items()}
    precisions = {how: {name: float(of.mean()) for name, of in by_name.items()} for how, by_name in shares.items()}
    numbers: dict[str, float | str | Numbers | None] = {
        "indexed": len(rows.indexed),
        "queries": len(rows.queries),
        "neighbours": NEIGHBOURS,
        "candidates": rows.candidates if quantizations else None,
        "recall": recalls,
    }
    if labels:
        numbers |= {"label": labels.column, "label_precision": precisions}
    shown = _table(subject, rows.candidates, recalls, precisions)
    return Section("search", numbers, (shown,), tuple(_sentences(subject, rows, shares)))


def _brought(values: np.ndarray, how: str) -> np.ndarray:
    return normalized(values) if how == "normalized" else values


def _features(model: Published, how: str, rows: np.ndarray) -> np.ndarray:
    return _brought(model.features(rows), how)


def _found(
    index: np.ndarray,
    queries: np.ndarray,
    quantization: Quantization | None,
    candidates: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Each encoding, and what it finds: int64 [queries, NEIGHBOURS]. index, queries: float32 embeddings."""
    yield "float32", nearest(index, queries, NEIGHBOURS, advance=advance)
    yield "float16", nearest(index, queries, NEIGHBOURS, float16, advance)
    if quantization is None:
        return
    whole = quantization.int8(index), quantization.int8(queries)
    yield "int8", nearest(*whole, NEIGHBOURS, advance=advance)
    bits = quantization.binary(index), quantization.binary(queries)
    near = nearest(*bits, candidates, lambda some: np.unpackbits(some, axis=1), advance)
    yield "binary", near[:, :NEIGHBOURS]
    yield RERANKED, reranked(near, *whole, NEIGHBOURS)


def _table(
    subject: Subject, candidates: int, recalls: Mapping[str, _ByName], precisions: Mapping[str, _ByName]
) -> Table:
    size, features = subject.model.manifest.embedding_size, subject.model.features(subject.whole.rows[:1]).size
    bits = math.ceil(size / 8)
    kept = {
        ROW: ("the row, in scaled units", 4 * features),
        "float32": ("FLOAT32", 4 * size),
        "float16": ("FLOAT16", 2 * size),
        "int8": ("INT8", size),
        "binary": ("BINARY", bits),
        RERANKED: (f"BINARY, the first {candidates:,} by INT8", bits + size),
    }
    headers = [f"recall@{NEIGHBOURS}", "normalised"]
    if precisions:
        headers += [f"same label@{NEIGHBOURS}", "normalised"]
    shown = table("compared", "bytes", *headers)
    columns = [*recalls.values(), *precisions.values()]
    for name, (what, taken) in kept.items():
        if name in columns[-1]:
            cells = [f"{column[name]:.4f}" if name in column else "" for column in columns]
            shown.add_row(what, f"{taken:,}", *cells)
    return shown


def _sentences(subject: Subject, rows: _Rows, shares: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[str]:
    """shares: of each query's neighbours, those with its label."""
    yield (
        f"{len(rows.indexed):,} rows are indexed, {len(rows.queries):,} others ask for their nearest {NEIGHBOURS}, "
        "exactly. Recall: how many of those that FLOAT32 finds."
    )
    if subject.model.manifest.quantization is None:
        yield "No INT8 and BINARY: the model has none. hourglass-train calibrate publishes it with them."
    if not shares:
        why = f": {subject.unclassified}" if subject.unclassified else ": --label COLUMN"
        yield f"No label to compare neighbours by{why}."
        return
    by_row, by_embedding = (max((of[name] for of in shares.values()), key=np.mean) for name in (ROW, "float32"))
    lost = by_row - by_embedding
    if lost.mean() > _CERTAIN * lost.std() / math.sqrt(len(lost)):
        yield "Neighbours by the row have its label more often: to find what is alike, search rows, or train otherwise."
