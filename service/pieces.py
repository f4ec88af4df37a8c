"""What is in a batch: pieces of requests, and how each gets the answer to its own rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from service.errors import InferenceFailed

Answer = dict[str, np.ndarray]


@dataclass(slots=True, eq=False)
class Request:
    rows: np.ndarray
    outputs: Sequence[str]
    deadline: float
    answer: asyncio.Future[Answer]
    urgent: bool = False  # ahead of those that are not
    trace: Any = None  # what spans of its batches belong to
    queued_at: float = field(default_factory=time.perf_counter)
    cut: int = 0  # of the rows, so many are in a batch, or were
    # Of a request that is run in several batches: the answers so far, by the place of their first row.
    parts: dict[int, Answer] = field(default_factory=dict)
    size: int = field(init=False)
    row_bytes: int = field(init=False)
    missing: int = field(init=False)  # rows without an answer

    def __post_init__(self) -> None:
        self.size = self.missing = len(self.rows)
        self.row_bytes = self.rows[0].nbytes

    @property
    def left(self) -> int:
        """Rows that are in no batch yet."""
        return self.size - self.cut


@dataclass(slots=True, eq=False)
class Piece:
    """Rows of a request that are in one batch."""

    request: Request
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def rows(self) -> np.ndarray:
        return self.request.rows[self.start : self.end]


class Ran(NamedTuple):
    """Pieces that were run together, in the order of their rows, and how it ended."""

    pieces: list[Piece]
    rows: np.ndarray
    answer: Answer | Exception


def shares(pieces: Sequence[Piece], together: Answer) -> Iterator[tuple[Piece, Answer]]:
    """Each piece with the answer to its own rows: of what its request asked for."""
    start = 0
    for piece in pieces:
        end = start + len(piece)
        yield piece, {name: together[name][start:end] for name in piece.request.outputs}
        start = end


def hand_out(pieces: Sequence[Piece], together: Answer) -> None:
    for piece, answer in shares(pieces, together):
        request = piece.request
        if request.answer.done():
            continue
        if len(piece) == request.size:
            request.answer.set_result(answer)
            continue
        request.parts[piece.start] = answer
        request.missing -= len(piece)
        if not request.missing:
            in_order = [part for _, part in sorted(request.parts.items())]
            joined = {name: np.concatenate([part[name] for part in in_order]) for name in request.outputs}
            request.answer.set_result(joined)


def finite_or_not(piece: Piece, answer: Answer) -> Ran:
    for name, values in answer.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            row = piece.start + int(np.argmin(finite))
            failure = InferenceFailed(f"the model's {name} of row {row} is not finite", field=name, row=row)
            return Ran([piece], piece.rows, failure)
    return Ran([piece], piece.rows, answer)
