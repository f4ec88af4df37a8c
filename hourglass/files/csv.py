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
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hourglass.files.cells import NO_NUMBER
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
_NO_NUMBER = {*NO_NUMBER, "inf", "+inf", "-inf", "infinity", "-infinity"}
_EXPONENT = r"([eE][+-]?\d+)?"
_WITH = {
    mark: re.compile(rf"[+-]?(\d+{re.escape(mark)}\d*|{re.escape(mark)}\d+){_EXPONENT}", re.ASCII) for mark in ".,"
}
_GROUPED = re.compile(r"[+-]?\d{1,3}((\.\d{3})+,\d+|(,\d{3})+\.\d+)", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
# The first line that Excel writes, and understands, to name the delimiter.
_SEPARATOR = re.compile(rb'(\xef\xbb\xbf)?"?sep=([^\r\n])"?\r?\n')
_SAVE = "save it as 'CSV UTF-8'"


@dataclass
class CsvFile(RowFile):
    """Text in columns, gzipped or not, UTF-8, with or without a header. A row without a single cell is a blank line."""

    delimiter: str = ","
    decimal: str = "."
    header_lines: int = 0  # lines above the first row, blank ones counted
    nameless: int = 0  # columns after the last one, without name and without content, as spreadsheets write them

    def _batches(self, size: int) -> Iterator[TableBatch]:
        assert self.columns is not None
        with _bytes_of(self.path) as (raw, stream):
            total = max(1, os.fstat(raw.fileno()).st_size)
            first_row = 0
            try:
                for table in rebatch(self._blocks(stream), size):
                    self.read_share = min(1.0, raw.tell() / total)
                    yield TableBatch(self.path, first_row, table, self._locate, self.decimal)
                    first_row += table.num_rows
            except pa.ArrowInvalid as error:
                raise self._diagnose(error) from None

    def _blocks(self, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
        assert self.columns is not None
        # Text as it is written: ids keep their zeros, and what is not a number gets our message.
        types = dict.fromkeys(self.columns, pa.string())
        nothing = {f"\0{i}": pa.null() for i in range(self.nameless)}  # no name in a file has a NUL
        blocks = pyarrow.csv.open_csv(
            stream,
            # No threads: what they read ahead may still be running when the process ends, which aborts it
            # (apache/arrow issues 34314 and 43604).
            read_options=pyarrow.csv.ReadOptions(
                column_names=[*types, *nothing], skip_rows=self.header_lines, block_size=_BLOCK, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={**types, **nothing}, null_values=[""], strings_can_be_null=False
            ),
        )
        for block in blocks:
            yield _without_blank(block.select(list(self.columns)))

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
                    if len(cells) != len(self.columns) + self.nameless:
                        return FileError(
                            f"{self.path}, line {line}: {len(cells)} cells, but {len(self.columns) + self.nameless} "
                            "columns: give every row the same number of cells"
                        )
                    if beyond := [cell for cell in cells[len(self.columns) :] if cell]:
                        return FileError(
                            f"{self.path}, line {line}: {beyond[0]!r} is in a column without a name, which is empty "
                            "above: give all columns names, in a first line"
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
        raise FileError(f"{path}: not UTF-8 text (UTF-16, or not text at all): {_SAVE}")
    if not sample.strip(b"\xef\xbb\xbf \t\r\n"):
        raise FileError(f"{path}: the file is empty: it needs at least one row")
    separator = _SEPARATOR.match(sample)
    try:
        delimiter, records = _sniff(sample, separator)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except csv.Error as problem:
        raise FileError(f"{path}: {problem}: is a quotation mark never closed?") from None
    if not records:
        raise FileError(f"{path}: the file is empty: it needs at least one row")
    _, names = records[0]
    header = _is_header(path, records)
    rows = records[1:] if header else records
    if header and not rows and cut:
        raise _too_long(path)
    if header and not rows:
        raise FileError(f"{path}: a header, but no row below it")
    nameless = _nameless(names if header else [""] * len(names), [cells for _, cells in rows])
    width = len(names) - nameless
    named = [name.strip() or f"c{i}" for i, name in enumerate(names[:width])]
    return CsvFile(
        path,
        check_names(path, named) if header else positional(width),
        (width,),
        None,
        delimiter=delimiter,
        decimal=_decimal(path, delimiter, rows),
        header_lines=rows[0][0] - 1 if header else 1 if separator else 0,
        nameless=nameless,
    )


def _nameless(names: list[str], rows: list[list[str]]) -> int:
    """How many columns at the end have neither name nor content."""
    nameless = 0
    for i in reversed(range(1, len(names))):
        if names[i].strip() or any(row[i] for row in rows if i < len(row)):
            break
        nameless += 1
    return nameless


def _decimal(path: Path, delimiter: str, rows: list[tuple[int, list[str]]]) -> str:
    """What stands before the fraction of numbers, in columns of nothing but numbers. Raises FileError where that may be
    either, a point or a comma."""
    columns = ([cell.strip() for cell in column] for column in zip_longest(*(cells for _, cells in rows), fillvalue=""))
    present = ([cell for cell in column if _kind(cell) != "missing"] for column in columns)
    numbers = [cell for column in present if all(_kind(cell) == "number" for cell in column) for cell in column]
    if grouped := next(filter(_GROUPED.fullmatch, numbers), None):
        raise FileError(f"{path}: {grouped!r}: write the numbers without marks between thousands")
    points, commas = ([cell for cell in numbers if _WITH[mark].fullmatch(cell)] for mark in ".,")
    if delimiter == "," or not commas:
        return "."
    if points:
        raise FileError(
            f"{path}: {commas[0]!r} and {points[0]!r}: is the comma a decimal one, or the point? Write all numbers of "
            "the file with decimal points"
        )
    if all(_THOUSANDS.fullmatch(cell) for cell in commas):
        raise FileError(
            f"{path}: {commas[0]!r}: is the comma a decimal one, or does it separate thousands? Write the numbers with "
            "decimal points, and thousands without commas"
        )
    return ","


def _without_blank(block: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that have a cell with something in it."""
    blank = None
    for column in block.columns:
        empty = pc.equal(pc.utf8_trim_whitespace(column), "")
        blank = empty if blank is None else pc.and_(blank, empty)
        if not pc.any(blank).as_py():
            return block
    return block if blank is None else block.filter(pc.invert(blank))


def _sniff(sample: bytes, separator: re.Match[bytes] | None) -> tuple[str, list[tuple[int, list[str]]]]:
    """The delimiter, and the first records with the lines they begin on.

    Unless a first line names it, it is the one under which all records have the same number of cells, and more than
    one; then the one under which most cells are numbers, which decimal commas do not cut.
    """
    text = io.TextIOWrapper(io.BytesIO(sample), encoding="utf-8-sig", newline="")

    def read(delimiter: str) -> list[tuple[int, list[str]]]:
        text.seek(0)
        return list(islice(_records(text, delimiter, 1 if separator else 0), _SAMPLE_RECORDS))

    if separator:
        delimiter = separator[2].decode("ascii")
        return delimiter, read(delimiter)

    def merit(delimiter: str) -> tuple[bool, bool, float, int]:
        widths = [len(cells) for _, cells in candidates[delimiter]] or [0]
        kinds = [_kind(cell) for _, cells in candidates[delimiter] for cell in cells]
        numbers = kinds.count("number") / (len(kinds) - kinds.count("missing") or 1)
        return widths[0] > 1, len(set(widths)) == 1, numbers, widths[0]

    candidates, problem = {}, None
    for delimiter in _DELIMITERS:
        try:
            candidates[delimiter] = read(delimiter)
        except csv.Error as error:  # too long for one cell: a quotation mark never closed, or the wrong delimiter
            problem = error
    best = max(candidates, key=merit, default="")
    if problem is not None and (not best or not candidates[best] or len(candidates[best][0][1]) == 1):
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
    return "missing" if cell in _NO_NUMBER else "number" if _NUMBER.fullmatch(cell) else "text"


def _records(text: TextIO, delimiter: str, skip_lines: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line it begins on, cells) of each row; blank lines, and those with nothing but blank cells, hold none."""
    for _ in range(skip_lines):
        text.readline()
    reader = csv.reader(text, delimiter=delimiter)
    line = skip_lines + 1
    for cells in reader:
        if any(map(str.strip, cells)):
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
                return FileError(f"{path}, line {line}: not UTF-8 text (but Windows-1252, perhaps): {_SAVE}")
    return FileError(f"{path}: not UTF-8 text: {_SAVE}")


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
