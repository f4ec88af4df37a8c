"""hourglass embed --to, hourglass search: rows into an index, and what is near to rows there."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from hourglass import terminal
from hourglass.arguments import UsageError
from hourglass.batches import Taken, take
from hourglass.client import Client
from hourglass.files import FileError, RowFile, TableWriter, open_rows
from hourglass.files.cells import value_of
from hourglass.indexing import index
from hourglass.models import ModelInfo
from hourglass.searching import Index
from hourglass.selection import select
from hourglass.stores.record import QUERY_ID, ROW

_SHOWN_ROWS = 3
_OWN_COLUMNS = 3  # rank, id, distance
_CELL_WIDTH = 24


def embed(client: Client, args: argparse.Namespace) -> None:
    """args.file into the index args.to."""
    if args.out is not None:
        raise UsageError("--out and --to: write a file, or an index")
    try:
        _embed(client, args)
    except KeyboardInterrupt:
        sys.stderr.write("hourglass: interrupted: run the same command again to go on\n")
        raise


def _embed(client: Client, args: argparse.Namespace) -> None:
    file = open_rows(args.file)
    with terminal.progress(lambda rows: file.read_share) as advance:
        done = index(
            client,
            file,
            args.to,
            args.model,
            version=args.version,
            id_column=args.id,
            payload=args.payload,
            normalize=args.normalize,
            encoding=args.encoding,
            bad_rows="skip" if args.bad_rows == "null" else "fail",
            advance=advance,
        )
    console = terminal.console()
    model = done.model.model
    console.print(
        f"{model.name} version {model.version}: of {done.rows:,} rows {done.new:,} are new, "
        f"{done.replaced:,} replaced, {done.unchanged:,} were there"
    )
    if done.first_bad is not None:
        bad = f"{done.bad:,} of {done.rows:,} rows could not be used and are left out; the first: {done.first_bad}"
        console.print(bad, soft_wrap=True)
    if done.rows > done.bad:
        console.print(f"written to {done.index}, embedding space {model.embedding_space_id}", soft_wrap=True)


def search(client: Client, args: argparse.Namespace) -> None:
    """The neighbours of args.rows in the index args.at."""
    out: Path | None = args.out
    if out is not None and out.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"--out {out}: its name must end in .parquet or .csv")
    if args.k < 1:
        raise UsageError("-k 0: at least one neighbour")
    row = _row(args.rows)
    with Index(client, args.at, model=args.model, version=args.version) as there:
        if row is not None:
            _give(iter([_of_row(there, row, args.k)]), there, out, None)
            return
        file = open_rows(Path(args.rows))
        if there.model.window is not None and file.columns is not None:
            raise FileError(f"{file.path}: the index is of windows of a series: give one as a ROW: [[…], …]")
        ids = _Ids(file, args.id or _own_id(file, there.model))
        selection = select(file, there.model, ids.column)
        # What is only shown are the first rows: no others are asked for.
        size = there.rows_per_message if out is not None else _SHOWN_ROWS
        taken = islice(take(file, selection, size, keep_bad=False), None if out is not None else 1)
        # Rows are read long before they are looked for.
        with terminal.progress(lambda rows: rows / file.rows if file.rows else file.read_share) as advance:
            found = _told(there.nearest_batches(ids.seen(taken), args.k), advance)
            _give(ids.beside(found), there, out, file.rows, ids)


def _own_id(file: RowFile, model: ModelInfo) -> str | None:
    """The model's own id column, where the file has it."""
    return model.aside.id if model.aside.id in (*(file.columns or ()), *file.extras) else None


class _Ids:
    """The ids of rows that are asked for, kept until their neighbours are there. column: None: they have none."""

    def __init__(self, file: RowFile, column: str | None) -> None:
        self.column = column
        self._type = None if column is None else next(file.batches(1)).column(column).type
        self._waiting: deque[pa.Array] = deque()
        self._first = 0  # the row of the first that waits

    def schema(self, found: pa.Schema) -> pa.Schema:
        return found if self.column is None else found.insert(1, pa.field(QUERY_ID, self._type))

    def seen(self, taken: Iterable[Taken]) -> Iterator[np.ndarray]:
        """Rows on their way to the server."""
        for batch in taken:
            if self.column is not None:
                self._waiting.append(batch.batch.column(self.column))
            yield batch.rows

    def beside(self, found: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """What is found, in the order of the rows, each table of one batch; of `schema`."""
        for table in found:
            if self.column is None:
                yield table
                continue
            rows = table[ROW].to_numpy()
            while len(rows) and rows[0] >= self._first + len(self._waiting[0]):
                self._first += len(self._waiting.popleft())
            ids = self._waiting[0].take(pa.array(rows - self._first))
            yield table.add_column(1, pa.field(QUERY_ID, self._type), ids)


def _told(found: Iterator[pa.Table], advance: Any) -> Iterator[pa.Table]:
    for table in found:
        yield table
        advance(len(np.unique(table[ROW].to_numpy())))


def _row(text: str) -> Any:
    """A row written as JSON; None where the text is a file's name."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the row is no JSON: {error}") from None


def _of_row(there: Index, row: Any, k: int) -> pa.Table:
    if isinstance(row, dict) and there.model.window is None:
        _check_cells(there.model, row)
    try:
        rows = (
            {name: [cell] for name, cell in row.items()} if isinstance(row, dict) else np.array([row], dtype=np.float32)
        )
        if isinstance(rows, np.ndarray) and rows.ndim == len(there.model.row_shape) + 2:
            raise UsageError("the row will not do: it is a list of rows, and one is taken here: put several in a file")
        return there.nearest(rows, k)
    except (TypeError, ValueError) as error:
        named = "" if isinstance(row, dict) else ' (a row with texts is written with names: {"column": …})'
        raise UsageError(f"the row will not do: {error}{named}") from None


def _check_cells(model: ModelInfo, row: dict[str, Any]) -> None:
    kinds = {column.name: column.type for column in model.schema}
    for name, cell in row.items():
        if name in kinds and isinstance(cell, list | dict):
            raise UsageError(f"the row will not do: column {name!r}: one row has one number or text there, not {cell}")
        if kinds.get(name) == "numeric" and isinstance(cell, str):
            raise UsageError(f"the row will not do: column {name!r}: {cell!r} is not a number")


def _give(found: Iterator[pa.Table], there: Index, out: Path | None, rows: int | None, ids: _Ids | None = None) -> None:
    """rows: how many the file has, None where that is not known. ids: of a file's rows."""
    console = terminal.console()
    record = there.record
    if out is not None:
        asked = 0
        with TableWriter(out, there.schema if ids is None else ids.schema(there.schema)) as writer:
            for table in found:
                writer.write(table)
                asked += len(np.unique(table[ROW].to_numpy()))
        console.print(f"the neighbours of {asked:,} rows, in embeddings of {record.model} ({record.encoding})")
        console.print(f"written to {out}", soft_wrap=True)
        return
    table = pa.concat_tables(found)
    texts = {name: _texts(table[name]) for name in table.column_names if name not in (ROW, QUERY_ID)}
    names = _fitting(texts, console.width)
    asked = table[ROW].to_numpy()
    shown = np.unique(asked).tolist()
    if not shown:
        console.print(f"{there.name} is empty", soft_wrap=True)
        return
    for row in shown:
        places = np.flatnonzero(asked == row)
        title = None if rows is None and len(shown) == 1 else f"row {row} (the first is 0)"
        if ids is not None and ids.column is not None:
            title = f"row {row} (the first is 0), {ids.column} {_text(table[QUERY_ID][places[0]].as_py())}"
        columns = [[texts[name][i] for i in places] for name in names]
        console.print(_table(title, names, columns, table.schema))
    more = [f"{rows - len(shown):,} more rows"] if rows is not None and rows > len(shown) else []
    more += [f"{len(texts) - len(names)} more columns"] if len(texts) > len(names) else []
    if more:
        console.print(f"and {' and '.join(more)}: --out FILE writes all")


def _fitting(texts: dict[str, list[str]], width: int) -> list[str]:
    """The first columns, as many as fit, those of every index at least."""
    names: list[str] = []
    for name, cells in texts.items():
        width -= min(_CELL_WIDTH, max(map(len, (name, *cells)))) + 3
        if width < 1 and len(names) >= _OWN_COLUMNS:
            break
        names.append(name)
    return names


def _table(title: str | None, names: list[str], columns: list[list[str]], schema: pa.Schema) -> Table:
    table = Table(title=title)
    for name in names:
        kind = schema.field(name).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True, max_width=_CELL_WIDTH)
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    return table


def _texts(column: pa.ChunkedArray) -> list[str]:
    values = column.combine_chunks()
    return [_text(value_of(values, i)) for i in range(len(values))]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
