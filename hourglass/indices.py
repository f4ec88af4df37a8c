"""hourglass embed --to, hourglass search: rows into an index, and what is near to rows there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from hourglass import terminal
from hourglass.arguments import UsageError
from hourglass.batches import take
from hourglass.client import Client
from hourglass.files import FileError, TableWriter, open_rows
from hourglass.files.cells import value_of
from hourglass.indexing import index
from hourglass.searching import Index
from hourglass.selection import select
from hourglass.stores.record import ROW

_SHOWN_ROWS = 3
_OWN_COLUMNS = 3  # rank, id, distance
_CELL_WIDTH = 24


def embed(client: Client, args: argparse.Namespace) -> None:
    """args.file into the index args.to."""
    if args.out is not None:
        raise UsageError("--out and --to: write a file, or an index")
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
        selection = select(file, there.model, args.id or there.model.aside.id)
        # What is only shown are the first rows: no others are asked for.
        size = there.rows_per_message if out is not None else _SHOWN_ROWS
        taken = islice(take(file, selection, size, keep_bad=False), None if out is not None else 1)
        with terminal.progress(lambda rows: file.read_share) as advance:
            found = _told(there.nearest_batches((batch.rows for batch in taken), args.k), advance)
            _give(found, there, out, file.rows)


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
    try:
        rows = (
            {name: [cell] for name, cell in row.items()} if isinstance(row, dict) else np.array([row], dtype=np.float32)
        )
        return there.nearest(rows, k)
    except (TypeError, ValueError) as error:
        named = "" if isinstance(row, dict) else ' (a row with texts is written with names: {"column": …})'
        raise UsageError(f"the row will not do: {error}{named}") from None


def _give(found: Iterator[pa.Table], there: Index, out: Path | None, rows: int | None) -> None:
    """rows: how many the file has, None where that is not known."""
    console = terminal.console()
    record = there.record
    if out is not None:
        asked = 0
        with TableWriter(out, there.schema) as writer:
            for table in found:
                writer.write(table)
                asked += len(np.unique(table[ROW].to_numpy()))
        console.print(f"the neighbours of {asked:,} rows, in embeddings of {record.model} ({record.encoding})")
        console.print(f"written to {out}", soft_wrap=True)
        return
    table = pa.concat_tables(found)
    texts = {name: _texts(table[name]) for name in table.column_names if name != ROW}
    names = _fitting(texts, console.width)
    asked = table[ROW].to_numpy()
    shown = np.unique(asked).tolist()
    if not shown:
        console.print(f"{there.name} is empty", soft_wrap=True)
        return
    for row in shown:
        title = None if rows is None and len(shown) == 1 else f"row {row} (the first is 0)"
        columns = [[texts[name][i] for i in np.flatnonzero(asked == row)] for name in names]
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
