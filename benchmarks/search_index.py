"""How fast a file becomes an index, and what is left of one that was killed half way: by the program, into LanceDB."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lancedb
import numpy as np

from hourglass import Client
from hourglass.indexing import index

ALONE, FUNCTION, PROGRAM = "Embed RPC alone", "file to LanceDB", "the program, with its start"
_TABLE = "embeddings"
_LOOK_SECONDS = 0.02
_SAME = 1e-4  # float32 of two batches


@dataclass(frozen=True)
class Killed:
    """at: rows in the index when the program was killed. missing, doubled, wrong: after it ran again: rows that are not
    there, rows too many, rows whose embedding is not the server's."""

    at: int
    missing: int
    doubled: int
    wrong: int


@dataclass(frozen=True)
class Indexing:
    """A file, its rows, and the server that embeds them. folder: for indices."""

    address: str
    model: str
    file: Path
    rows: np.ndarray
    folder: Path

    def command(self, at: Path) -> list[str]:
        program = [sys.executable, "-m", "hourglass", "embed", str(self.file), "--model", self.model]
        return [*program, "--payload", "label", "--to", f"lancedb://{at}", "--server", self.address]

    def seconds(self, number: int) -> Mapping[str, float]:
        """Of one turn: the Embed RPC for `rows` in memory, in as many calls as they take; the file into a new index, by
        the function that the program calls, and by the program, its start included."""
        by_function, by_program = (self.folder / f"{who}-{number}" for who in ("function", "program"))
        with Client(self.address) as client:
            return {
                ALONE: _timed(lambda: client.embed(self.model, self.rows)),
                FUNCTION: _timed(
                    lambda: index(client, self.file, f"lancedb://{by_function}", self.model, payload=["label"])
                ),
                PROGRAM: _timed(lambda: subprocess.run(self.command(by_program), check=True, capture_output=True)),
            }

    def killed(self, number: int, embeddings: np.ndarray, later: float) -> Killed:
        """kill -9 `later` seconds after half of the rows are there, and the same command again. embeddings: of all rows
        of the file, in their order."""
        place = self.folder / f"killed-{number}"
        with subprocess.Popen(self.command(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while _count(place) < len(embeddings) / 2:
                time.sleep(_LOOK_SECONDS)
            time.sleep(later)
            process.kill()
        at = _count(place)
        if at >= len(embeddings):
            raise RuntimeError("the program had ended before it was killed")
        subprocess.run(self.command(place), check=True, capture_output=True)
        there = lancedb.connect(place).open_table(_TABLE).to_arrow()
        ids = there["id"].to_numpy()
        known = np.unique(ids)
        vectors = np.stack(there["embedding"].to_numpy(zero_copy_only=False))
        wrong = ~np.isclose(vectors, embeddings[ids], rtol=_SAME, atol=_SAME).all(axis=1)
        return Killed(at, len(embeddings) - len(known), len(ids) - len(known), int(wrong.sum()))


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _count(place: Path) -> int:
    """Rows in the index, 0 where there is none yet."""
    database = lancedb.connect(place)
    return int(database.open_table(_TABLE).count_rows()) if _TABLE in database.list_tables().tables else 0
