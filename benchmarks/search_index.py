"""How fast a file becomes an index, and what is left of one that was killed half way: by the program, into LanceDB."""

from __future__ import annotations

import shutil
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

ALONE, FUNCTION = "Embed RPC alone", "file to LanceDB, by the function"
PROGRAM, LONG = "by the program, with its start", "by the program, ten times the rows"
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

    def command(self, at: Path, file: Path | None = None) -> list[str]:
        """file: another one, with labels under the same name."""
        program = [sys.executable, "-m", "hourglass", "embed", str(file or self.file), "--model", self.model]
        return [*program, "--payload", "label", "--to", f"lancedb://{at}", "--server", self.address]

    def rates(self, many: Path, copies: int, first: int = 0) -> Mapping[str, float]:
        """Rows a second in one turn, which begins with another way for each `first`: of the Embed RPC for `rows` in
        memory, in as many calls as they take; of the file into a new index, by the function that the program calls, and
        by the program, its start included; of `many`, the same rows so many times, by the program."""
        at = self.folder / "turn"

        def program(file: Path) -> None:
            subprocess.run(self.command(at, file), check=True, capture_output=True)

        with Client(self.address) as client:
            ways: Mapping[str, tuple[int, Callable[[], object]]] = {
                ALONE: (1, lambda: client.embed(self.model, self.rows)),
                FUNCTION: (1, lambda: index(client, self.file, f"lancedb://{at}", self.model, payload=["label"])),
                PROGRAM: (1, lambda: program(self.file)),
                LONG: (copies, lambda: program(many)),
            }
            rates = {}
            names = list(ways)
            for way in names[first % len(names) :] + names[: first % len(names)]:
                times, what = ways[way]
                shutil.rmtree(at, ignore_errors=True)
                began = time.perf_counter()
                what()
                rates[way] = times * len(self.rows) / (time.perf_counter() - began)
            return {way: rates[way] for way in ways}

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


def _count(place: Path) -> int:
    """Rows in the index, 0 where there is none yet."""
    database = lancedb.connect(place)
    return int(database.open_table(_TABLE).count_rows()) if _TABLE in database.list_tables().tables else 0
