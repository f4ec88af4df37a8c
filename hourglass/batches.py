"""A file's rows on their way to a server and back: some of them may be bad, and the order stays the file's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa

from hourglass.contract.schema import Problem
from hourglass.files import Batch, RowFile
from hourglass.files.encoding import refused
from hourglass.selection import Selection

A = TypeVar("A")


@dataclass(frozen=True)
class Taken:
    """Rows of a file as a model takes them: float32 [n, *row_shape]. problems: of each bad row, in order."""

    batch: Batch
    rows: np.ndarray
    problems: tuple[Problem, ...]

    @cached_property
    def good(self) -> np.ndarray:
        """bool [n]."""
        good = np.ones(len(self.rows), dtype=bool)
        good[[problem.row for problem in self.problems]] = False
        return good

    def spread(self, columns: Iterable[pa.Array]) -> list[pa.Array]:
        """Columns of the good rows -> of all rows, null where one is bad."""
        if not self.problems:
            return list(columns)
        places = pa.array(np.cumsum(self.good) - 1, mask=~self.good)
        return [column.take(places) for column in columns]

    def why(self) -> pa.Array:
        """What is wrong with each row: texts, null where nothing is."""
        texts = np.full(len(self.rows), None, dtype=object)
        for problem in self.problems:
            texts[problem.row] = f"{problem.column}: {problem.why}"
        return pa.array(texts, pa.string())


def take(file: RowFile, selection: Selection, size: int, *, keep_bad: bool) -> Iterator[Taken]:
    """The file's rows, `size` at a time. Raises FileError, unless bad rows are kept for the first of these."""
    for batch in file.batches(size):
        encoded = selection.encode(batch)
        if encoded.problems and not keep_bad:
            raise refused(batch, encoded.problems[0])
        yield Taken(batch, encoded.rows, encoded.problems)


def ask(
    batches: Iterator[Taken], answers_to: Callable[[Iterator[np.ndarray]], Iterator[A]]
) -> Iterator[tuple[A | None, Taken]]:
    """Each batch with the answer to its good rows, None where it has none. answers_to: one answer for each array."""
    barren: Taken | None = None

    def fertile(waiting: list[Taken]) -> Iterator[np.ndarray]:
        nonlocal barren
        barren = None
        for taken in batches:
            if not taken.good.any():
                barren = taken
                return
            waiting.append(taken)
            yield taken.rows[taken.good] if taken.problems else taken.rows

    # Up to a batch that is not sent, whose turn comes when the others are answered: nothing piles up.
    while True:
        waiting: list[Taken] = []
        for answer in answers_to(fertile(waiting)):
            yield answer, waiting.pop(0)
        if barren is None:
            return
        yield None, barren
