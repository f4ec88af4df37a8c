"""Arrays: .npy, .npz and idx, read a few rows at a time. Nothing is ever unpickled."""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy

from hourglass.files.rows import ArrayBatch, FileError, RowFile, positional, readable

# Each column gets a name; wider arrays are no tables.
_MAX_COLUMNS = 2**20
_CHUNK = 2**20
# How many bytes one byte of gzip can stand for (https://zlib.net/zlib_tech.html).
_MAX_DEFLATE = 1032
LABEL = "label"
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Layout:
    """What an array's header says, and where its numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        return self.offset + self.shape[0] * self.row_bytes


def _array_file_fields(path: Path, layout: Layout) -> tuple[Path, tuple[str, ...] | None, tuple[int, ...], int]:
    """path, columns, row_shape and rows of a RowFile. Raises FileError when the array is not rows of numbers."""
    if layout.dtype.kind not in "biuf":
        raise FileError(f"{path}: the array holds {layout.dtype}, not numbers: save it as a numeric dtype")
    if not 2 <= len(layout.shape) <= 4:
        raise FileError(
            f"{path}: the array's shape is {list(layout.shape)}: rows × columns or rows × height × width (× 3) "
            "is needed: reshape it"
        )
    if 0 in layout.shape:
        raise FileError(f"{path}: the array's shape is {list(layout.shape)}: it needs at least one row and one column")
    if len(layout.shape) == 2 and layout.shape[1] > _MAX_COLUMNS:
        raise FileError(
            f"{path}: {layout.shape[1]:,} columns: at most {_MAX_COLUMNS:,}: was it meant to be transposed?"
        )
    columns = positional(layout.shape[1]) if len(layout.shape) == 2 else None
    return path, columns, layout.row_shape, layout.shape[0]


@dataclass
class NpyFile(RowFile):
    """A .npy file, mapped into memory."""

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(array), size):
            yield ArrayBatch(self.path, start, array[start : start + size], self.columns, {})


def open_npy(path: Path) -> NpyFile:
    """Raises FileError."""
    with path.open("rb") as stream:
        layout = _read_npy_header(stream)
    _check_size(path, layout, path.stat().st_size)
    return NpyFile(*_array_file_fields(path, layout))


@dataclass
class NpzFile(RowFile):
    """One array of a .npz, with the arrays of one value per row beside it."""

    member: str = "X"
    layouts: dict[str, Layout] = field(default_factory=dict)

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        with zipfile.ZipFile(self.path) as archive:
            values, *extras = (self._read(archive, name, size) for name in (self.member, *self.extras))
            start = 0
            for rows in values:
                beside = {name: next(column) for name, column in zip(self.extras, extras, strict=True)}
                yield ArrayBatch(self.path, start, rows, self.columns, beside)
                start += len(rows)

    def _read(self, archive: zipfile.ZipFile, name: str, size: int) -> Iterator[np.ndarray]:
        layout = self.layouts[name]
        with archive.open(f"{name}.npy") as stream:
            if layout.fortran:
                yield from _rows_of_columns(stream, size)
            else:
                stream.read(layout.offset)
                yield from _stream_rows(stream, layout, size)


def open_npz(path: Path) -> NpzFile:
    """Takes the array `X`, or the only one that is not `y`. Raises FileError."""
    layouts = {}
    with zipfile.ZipFile(path) as archive:
        for file in archive.namelist():
            name = file.removesuffix(".npy")
            if name == file:
                continue  # not an array
            if name in layouts:
                raise FileError(f"{path}: holds {name!r} twice")
            with archive.open(file) as stream:
                layouts[name] = _read_npy_header(stream)
            _check_size(path, layouts[name], archive.getinfo(file).file_size)
    candidates = [name for name in layouts if name != "y"]
    member = "X" if "X" in layouts else candidates[0] if len(candidates) == 1 else None
    if member is None:
        raise FileError(f"{path}: holds {', '.join(layouts) or 'no array'}: call the array of the rows 'X'")
    fields = _array_file_fields(path, layouts[member])
    extras = tuple(
        name
        for name, layout in layouts.items()
        if name != member and layout.shape == (fields[3],) and layout.dtype.kind in "biufU"
    )
    return NpzFile(*fields, extras=extras, member=member, layouts=layouts)


@dataclass
class IdxFile(RowFile):
    """Images (or other arrays) in the idx format of MNIST, gzipped or not, with their labels where those lie beside."""

    layout: Layout | None = None
    labels: Path | None = None

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        assert self.layout is not None
        labels = _Labels(self.labels, self.layout.shape[0]) if self.labels else None
        start = 0
        for rows in _idx_rows(self.path, self.layout, size):
            beside = _Beside(labels, slice(start, start + len(rows))) if labels else {}
            yield ArrayBatch(self.path, start, rows, self.columns, beside)
            start += len(rows)


@dataclass
class _Labels:
    """Read once, and only when somebody asks: whatever is wrong with them, the images can be used."""

    path: Path
    images: int

    @cached_property
    def values(self) -> np.ndarray:
        """[images]. Raises FileError."""
        with readable(self.path):
            layout = _read_idx_header(self.path)
            if layout.shape != (self.images,):
                raise FileError(f"{self.path}: holds {list(layout.shape)} labels for {self.images:,} images")
            (labels,) = _idx_rows(self.path, layout, self.images)
            return labels


@dataclass(frozen=True)
class _Beside(Mapping[str, np.ndarray]):
    """The labels of one batch."""

    labels: _Labels
    rows: slice

    def __getitem__(self, name: str) -> np.ndarray:
        if name != LABEL:
            raise KeyError(name)
        return self.labels.values[self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter((LABEL,))

    def __len__(self) -> int:
        return 1


def open_idx(path: Path) -> IdxFile:
    """The labels of train-images-idx3-ubyte are train-labels-idx1-ubyte, as MNIST is published. Raises FileError."""
    layout = _read_idx_header(path)
    fields = _array_file_fields(path, layout)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return IdxFile(*fields, layout=layout)
    return IdxFile(*fields, extras=(LABEL,), layout=layout, labels=beside)


def _read_idx_header(path: Path) -> Layout:
    with _maybe_gzip(path) as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
            raise FileError(f"{path}: not an idx file: it begins with {magic.hex(' ') or 'nothing'}")
        rank = magic[3]
        shape = tuple(np.frombuffer(_exactly(stream, 4 * rank), dtype=">u4").tolist())
    layout = Layout(shape, False, np.dtype(_IDX_TYPES[magic[2]]), 4 + 4 * rank)
    found = path.stat().st_size
    _check_size(path, layout, found * _MAX_DEFLATE if path.name.lower().endswith(".gz") else found)
    return layout


def _idx_rows(path: Path, layout: Layout, size: int) -> Iterator[np.ndarray]:
    with _maybe_gzip(path) as stream:
        stream.read(layout.offset)
        yield from _stream_rows(stream, layout, size)


def _read_npy_header(stream: IO[bytes]) -> Layout:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is for arrays of records, not of numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"a shape of {shape}")
    return Layout(shape, fortran, dtype, stream.tell())


def _check_size(path: Path, layout: Layout, found: int) -> None:
    """Before anything of the announced size is allocated. found: bytes that there can be."""
    if layout.shape and not layout.dtype.hasobject and found < layout.total_bytes:
        raise FileError(f"{path}: cut short: {layout.total_bytes:,} bytes are announced and {found:,} are there")


def _stream_rows(stream: IO[bytes], layout: Layout, size: int) -> Iterator[np.ndarray]:
    for start in range(0, layout.shape[0], size):
        rows = min(size, layout.shape[0] - start)
        data = _exactly(stream, rows * layout.row_bytes)
        yield np.frombuffer(data, dtype=layout.dtype).reshape(rows, *layout.row_shape)


def _rows_of_columns(stream: IO[bytes], size: int) -> Iterator[np.ndarray]:
    """Rows of an array that is stored column by column: through a file on disk, since they lie all over it."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as copy:
        stream.seek(0)
        shutil.copyfileobj(stream, copy)
        copy.flush()
        array = np.load(copy.name, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(array), size):
            yield np.array(array[start : start + size])


def _exactly(stream: IO[bytes], count: int) -> bytes:
    # Piece by piece: memory follows what is there, not what is announced.
    data = bytearray()
    while piece := stream.read(min(count - len(data), _CHUNK)):
        data += piece
    if len(data) != count:
        raise EOFError(f"cut short: {count - len(data):,} bytes are missing")
    return bytes(data)


@contextmanager
def _maybe_gzip(path: Path) -> Iterator[IO[bytes]]:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        yield cast(IO[bytes], stream)
