"""CSV: pyarrow reads it fast; when something is wrong, a slow second look finds the exact line."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import pyarrow as pa
import pyarrow.csv

from hourglass.files.rows import FileError, RowFile, TableBatch, check_names, positional
from hourglass.files.tables import rebatch

_DELIMITERS = ",;\t|"
# A line must fit in one block.
_BLOCK = 2**20
# How much of the file is looked at to guess delimiter and header: two lines at least.
_SAMPLE = 2 * _BLOCK
_SAMPLE_RECORDS = 50
# What is meant as a number, also where it will be refused: 1,5 or 1.000.000
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)*|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)
# What people write where there is no number: no name of a column.
_MISSING = {"", "nan", "na", "n/a", "null", "none", "inf", "+inf", "-inf", "infinity", "-infinity"}


@dataclass
class CsvFile(RowFile):
    """A .csv or .csv.gz of UTF-8 text, with or without a header."""

    delimiter: str = ","
    header_lines: int = 0  # lines above the first row, blank ones counted

    def _batches(self, size: int) -> Iterator[TableBatch]:
        assert self.columns is not None
        with _bytes_of(self.path) as (raw, stream):
            total = max(1, os.fstat(raw.fileno()).st_size)
            first_row = 0
            try:
                for table in rebatch(self._blocks(stream), size):
                    self.read_share = min(1.0, raw.tell() / total)
                    yield TableBatch(self.path, first_row, table, self._locate)
                    first_row += table.num_rows
            except pa.ArrowInvalid as error:
                raise self._diagnose(error) from None

    def _blocks(self, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
        assert self.columns is not None
        yield from pyarrow.csv.open_csv(
            stream,
            # No threads: what they read ahead may still be running when the process ends, which aborts it
            # (apache/arrow issues 34314 and 43604).
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(self.columns), skip_rows=self.header_lines, block_size=_BLOCK, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            # Text as it is written: ids keep their zeros, and what is not a number gets our message.
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in self.columns}, strings_can_be_null=False
            ),
        )

    def _locate(self, row: int) -> str:
        with _text_of(self.path) as text:
            rows = _records(text, self.delimiter, self.header_lines)
            line = next((line for index, (line, _) in enumerate(rows) if index == row), None)
        return f"row {row} (the first is 0)" if line is None else f"line {line}"

    def _diagnose(self, error: pa.ArrowInvalid) -> FileError:
        """What pyarrow refused, said with its line."""
        assert self.columns is not None
        with _text_of(self.path) as text:
            try:
                for line, cells in _records(text, self.delimiter, self.header_lines):
                    if len(cells) != len(self.columns):
                        return FileError(
                            f"{self.path}, line {line}: {len(cells)} cells, but {len(self.columns)} columns: "
                            "give every row the same number of cells"
                        )
            except UnicodeDecodeError:
                return _not_utf8(self.path)
            except csv.Error as problem:
                return FileError(f"{self.path}: {problem}: is a quotation mark never closed?")
        if "straddl" in str(error):
            return _too_long(self.path)
        return FileError(f"{self.path}: cannot be read as CSV: {error}")


def open_csv(path: Path) -> CsvFile:
    """Looks at the start of the file for delimiter, header and columns. Raises FileError."""
    with _bytes_of(path) as (_, stream):
        sample = stream.read(_SAMPLE)
    cut = len(sample) == _SAMPLE
    if cut:
        sample = sample[: sample.rfind(b"\n") + 1] or sample  # whole lines
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in sample:
        raise FileError(f"{path}: not UTF-8 text (UTF-16, or not text at all): save it as CSV in UTF-8")
    if not sample.strip(b"\xef\xbb\xbf \t\r\n"):
        raise FileError(f"{path}: the file is empty: it needs at least one row")
    try:
        delimiter, records = _sniff(sample)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except csv.Error as problem:
        raise FileError(f"{path}: {problem}: is a quotation mark never closed?") from None
    _, names = records[0]
    if not _is_header(path, records):
        return CsvFile(path, positional(len(names)), (len(names),), None, delimiter=delimiter)
    if len(records) == 1 and cut:
        raise _too_long(path)
    if len(records) == 1:
        raise FileError(f"{path}: a header, but no row below it")
    columns = check_names(path, [name.strip() or f"c{i}" for i, name in enumerate(names)])
    header_lines = records[1][0] - 1
    return CsvFile(path, columns, (len(columns),), None, delimiter=delimiter, header_lines=header_lines)


def _sniff(sample: bytes) -> tuple[str, list[tuple[int, list[str]]]]:
    """The delimiter under which the first records have the same number of cells, and more than one; the records."""

    text = io.TextIOWrapper(io.BytesIO(sample), encoding="utf-8-sig", newline="")

    def read(delimiter: str) -> list[tuple[int, list[str]]]:
        text.seek(0)
        return list(islice(_records(text, delimiter), _SAMPLE_RECORDS))

    def merit(delimiter: str) -> tuple[bool, bool, int]:
        widths = [len(cells) for _, cells in candidates[delimiter]]
        return widths[0] > 1, len(set(widths)) == 1, widths[0]

    candidates, problem = {}, None
    for delimiter in _DELIMITERS:
        try:
            candidates[delimiter] = read(delimiter)
        except csv.Error as error:  # too long for one cell: a quotation mark never closed, or the wrong delimiter
            problem = error
    best = max(candidates, key=merit, default="")
    if problem is not None and (not best or len(candidates[best][0][1]) == 1):
        raise problem
    return best, candidates[best]


def _is_header(path: Path, records: list[tuple[int, list[str]]]) -> bool:
    """Whether the first record holds names: text and no number.

    Or exactly 0, 1, 2, …, with or without an empty cell in front, which is what pandas writes for columns without
    names (0, 1 alone may well be a row). Raises FileError where it may be either.
    """
    (line, cells), *rows = records
    counted = [str(i) for i in range(len(cells))]
    if len(cells) > 2 and [cell.strip() for cell in cells] in (counted, ["", *counted[:-1]]):
        return True
    kinds = [_kind(cell) for cell in cells]
    if "number" not in kinds:
        return "text" in kinds
    for i in (i for i, kind in enumerate(kinds) if kind == "text"):
        below = {_kind(row[i]) for _, row in rows if i < len(row)}
        if "number" in below and "text" not in below:
            raise FileError(
                f"{path}, line {line}: a header or a row? {cells[i]!r} is text above numbers, but "
                f"{cells[kinds.index('number')]!r} is a number: give all columns names that are no numbers, or correct "
                f"the cell"
            )
    return False


def _kind(cell: str) -> str:
    cell = cell.strip().lower()
    return "missing" if cell in _MISSING else "number" if _NUMBER.fullmatch(cell) else "text"


def _records(text: TextIO, delimiter: str, skip_lines: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line it begins on, cells) of each row; blank lines hold none, as for pyarrow."""
    for _ in range(skip_lines):
        text.readline()
    reader = csv.reader(text, delimiter=delimiter)
    line = skip_lines + 1
    for cells in reader:
        if cells:
            yield line, cells
        line = skip_lines + reader.line_num + 1


def _too_long(path: Path) -> FileError:
    return FileError(f"{path}: a line is longer than {_BLOCK:,} bytes: is a quotation mark never closed?")


def _not_utf8(path: Path) -> FileError:
    with _bytes_of(path) as (_, stream):
        for line, content in enumerate(stream, start=1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError:
                return FileError(f"{path}, line {line}: not UTF-8 text: save the file as CSV in UTF-8")
    return FileError(f"{path}: not UTF-8 text: save the file as CSV in UTF-8")


@contextmanager
def _bytes_of(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file as it lies on the disk, and its decompressed bytes."""
    with path.open("rb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzip.open(raw) as stream:
                yield raw, cast(BinaryIO, stream)
        else:
            yield raw, raw


@contextmanager
def _text_of(path: Path) -> Iterator[TextIO]:
    with _bytes_of(path) as (_, stream), io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        yield text
