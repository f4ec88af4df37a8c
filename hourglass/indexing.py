"""A file's rows into an index: read, compared with what is there, embedded and written, all at the same time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from hourglass.arrow import pa
from hourglass.batches import Taken, take
from hourglass.client import Client, blocking
from hourglass.contract.quantization import Encoding
from hourglass.files import FileError, RowFile, open_rows
from hourglass.files.encoding import refused
from hourglass.files.rows import ArrayBatch
from hourglass.models import ModelInfo
from hourglass.requests import check_encoding
from hourglass.selection import select
from hourglass.stored_columns import StoredColumns
from hourglass.stores import Record, Store, StoreError, StoreUnavailable, open_store
from hourglass.stores.record import DIGEST_BYTES, EMBEDDING, ID

_CHUNK_ROWS = 8192  # are written at once
_REMEDY = "name another index behind '#' of --to"

T = TypeVar("T")
BadRows = Literal["fail", "skip"]


@dataclass
class Indexed:
    """What became of a file's rows. bad: those left out, and first_bad why the first of them was."""

    index: str
    model: ModelInfo
    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    bad: int = 0
    first_bad: FileError | None = None

    @property
    def rows(self) -> int:
        return self.new + self.replaced + self.unchanged + self.bad


def index(
    client: Client,
    file: str | Path | RowFile,
    to: str,
    model: str,
    *,
    version: int | None = None,
    id_column: str | None = None,
    payload: Sequence[str] = (),
    normalize: bool = False,
    encoding: Encoding = "float32",
    bad_rows: BadRows = "fail",
    advance: Callable[[int], None] | None = None,
) -> Indexed:
    """Embeds a file's rows into the index `to`, a URI as `hourglass.stores.open_store` takes it.

    id_column: what rows are known by; default: the model's own, else their number in the file, from 0. payload: columns
    to keep with them. bad_rows: what becomes of rows with cells that the model does not take; skip: they are left out.
    Rows that are there already are not embedded again, and those that have changed are replaced: what ended half way is
    begun again. advance: told of each lot of rows that are done.

    Raises FileError for the file, StoreError for the index, HourglassError for the server, and TypeError or ValueError
    for arguments that will not do.
    """
    blocking(client)
    check_encoding(encoding)
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows is {bad_rows!r}, none of {', '.join(get_args(BadRows))}")
    if isinstance(payload, str):
        raise TypeError(f"payload is a text: give a list of columns' names, [{payload!r}]")
    if not isinstance(file, str | Path | RowFile):
        raise TypeError(f"file is of type {type(file).__name__}, not a file's path: write a frame's rows to .parquet")
    opened = file if isinstance(file, RowFile) else open_rows(Path(file))
    info = client.model(model, version)
    if info.window is not None and opened.columns is not None:
        raise FileError(
            f"{opened.path}: the model {model!r} takes windows of a series, which have no ids that last: write "
            "them with --out"
        )
    if id_column is None and info.aside.id in (*(opened.columns or ()), *opened.extras):
        id_column = info.aside.id
    columns = StoredColumns(opened, id_column, payload)
    with _Writer(to) as writer:
        known = writer.do(writer.store.record)
        wanted = Record(
            model=info.model.name,
            embedding_space_id=info.model.embedding_space_id,
            encoding=encoding,
            normalized=normalize,
            scale=known and known.scale,
            embedding_size=info.embedding_size,
            id_type=columns.id_type,
            payload=columns.payload,
        )
        if known is not None:
            known.require(wanted, writer.store.index, _REMEDY)
        done = Indexed(writer.store.index, info)
        chunks = _Chunks(opened, info, columns, id_column, bad_rows == "skip", done)
        _run(client, chunks, writer, known, wanted, advance or (lambda rows: None))
    return done


@dataclass(frozen=True)
class _Chunk:
    """Rows on their way into an index, float32 [n, …], what stands beside them, and what came of them so far.

    count: how many rows of the file these are, with those that need nothing.
    """

    count: int
    rows: np.ndarray
    beside: pa.Table
    digests: list[bytes]
    new: bool = True
    answers: list[np.ndarray] = field(default_factory=list)

    def table(self, record: Record) -> pa.Table:
        schema = record.schema
        kind = schema.field(EMBEDDING).type
        values = np.concatenate(self.answers).astype(kind.value_type.to_pandas_dtype(), copy=False)
        columns = [
            *(self.beside[column.name] for column in record.fields),  # in the index's order, whatever that of --payload
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind),
            pa.array([record.embedding_space_id] * len(values)),
            pa.array(self.digests, pa.binary(DIGEST_BYTES)),
        ]
        return pa.table(columns, schema=schema)


def digests(rows: np.ndarray, beside: Sequence[pa.Array]) -> list[bytes]:
    """Of each row, [n, …] of any dtype, and of what stands beside it: 16 bytes, the same exactly when both are."""
    if not len(rows):
        return []
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    # Times by their numbers: how Python writes them depends on its version.
    plain = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in beside]
    plain = [c.cast(pa.int32()) if pa.types.is_date(c.type) else c for c in plain]
    cells: Any = zip(*(column.to_pylist() for column in plain), strict=True) if plain else repeat(())
    found = []
    data, width = flat.data.cast("B"), flat.shape[1] * flat.itemsize
    for start, others in zip(range(0, len(data), width), cells, strict=False):
        digest = hashlib.blake2b(data[start : start + width], digest_size=DIGEST_BYTES)
        digest.update(repr(others).encode())
        found.append(digest.digest())
    return found


class _Chunks:
    """A file's rows as chunks; what is done with each is counted in `done`."""

    def __init__(
        self,
        file: RowFile,
        model: ModelInfo,
        columns: StoredColumns,
        id_column: str | None,
        keep_bad: bool,
        done: Indexed,
    ) -> None:
        self._file, self._columns, self._keep_bad, self.done = file, columns, keep_bad, done
        self._selection = select(file, model, id_column)
        self.model = model

    def read(self, size: int) -> Iterator[_Chunk]:
        """Of `size` rows of the file each. Raises FileError."""
        for taken in take(self._file, self._selection, size, keep_bad=self._keep_bad):
            if taken.problems:
                self.done.first_bad = self.done.first_bad or refused(taken.batch, taken.problems[0])
                self.done.bad += len(taken.problems)
            rows, written = taken.rows, self._as_written(taken)
            if taken.problems:
                rows, written = rows[taken.good], written[taken.good]
            beside = self._columns.take(taken.batch, taken.good)
            payload = [beside[name] for name in sorted(self._columns.payload)]  # in whatever order it was asked for
            yield _Chunk(len(taken.rows), rows, beside, digests(written, payload))

    def _as_written(self, taken: Taken) -> np.ndarray:
        """What a row's digest is of: the row as it is sent, or of images of bytes these, a quarter as many."""
        batch, taken_whole = taken.batch, self._selection.columns is None
        if taken_whole and isinstance(batch, ArrayBatch) and batch.values.dtype == np.uint8:
            return batch.values
        return taken.rows.astype("<f4", copy=False)

    def changed(self, chunk: _Chunk, known: dict[int | str, bytes]) -> _Chunk:
        """Without the rows that are there already. known: the digests of those whose ids are there."""
        there = [known.get(key) for key in chunk.beside[ID].to_pylist()]
        rest = [i for i, digest in enumerate(there) if digest != chunk.digests[i]]
        replaced = sum(there[i] is not None for i in rest)
        self.done.replaced += replaced
        self.done.new += len(rest) - replaced
        self.done.unchanged += len(there) - len(rest)
        if len(rest) == len(there):
            return replace(chunk, new=not replaced)
        return replace(
            chunk,
            rows=chunk.rows[rest],
            beside=chunk.beside.take(pa.array(rest, pa.int64())),
            digests=[chunk.digests[i] for i in rest],
            new=not replaced,
        )


def _run(
    client: Client,
    chunks: _Chunks,
    writer: _Writer,
    record: Record | None,
    wanted: Record,
    advance: Callable[[int], None],
) -> None:
    model = chunks.model.model
    size = client.rows_per_message(model.name, model.version)
    fresh, store = record is None, writer.store
    waiting: deque[_Chunk] = deque()
    ready: list[_Chunk] = []

    def messages() -> Iterator[np.ndarray]:
        # Message by message, so that the server never waits for a long piece of work here. Only looking up what is
        # there is cheaper in one go; an index that was begun here has the ids of this file alone, each of them once.
        for read in chunks.read(size if fresh else max(size, _CHUNK_ROWS // size * size)):
            known = {} if fresh else writer.do(store.digests, read.beside[ID].combine_chunks())
            chunk = chunks.changed(read, known)
            if not len(chunk.rows):
                advance(chunk.count)
                continue
            waiting.append(chunk)
            for start in range(0, len(chunk.rows), size):
                yield chunk.rows[start : start + size]

    for answer in client.embed_batches(
        model.name,
        messages(),
        version=model.version,
        normalize=wanted.normalized,
        encoding=wanted.encoding,
        require_space_id=model.embedding_space_id,
    ):
        made = wanted.model_copy(update={"scale": answer.scale})
        if record is None:
            record = made
            writer.create(record)
        record.require(made, store.index, _REMEDY)
        chunk = waiting[0]
        chunk.answers.append(answer.values)
        if sum(map(len, chunk.answers)) == len(chunk.rows):
            ready.append(waiting.popleft())
            if sum(len(chunk.rows) for chunk in ready) >= _CHUNK_ROWS:
                writer.write(ready, record)
                ready = []
            advance(chunk.count)
    if ready and record is not None:
        writer.write(ready, record)
    writer.finish()


class _Writer:
    """A store on a thread of its own: it writes while rows are read and embedded."""

    store: Store

    def __init__(self, to: str) -> None:
        self._to = to
        self._thread = ThreadPoolExecutor(1, "hourglass-store")
        self._writing: Future[None] | None = None

    def do(self, method: Callable[..., T], *arguments: Any) -> T:
        return self._thread.submit(method, *arguments).result()

    def create(self, record: Record) -> None:
        try:
            self.do(self.store.create, record)
        except StoreError:
            if self.do(self.store.record) is None:
                raise
            raise StoreUnavailable(f"{self.store.index} was made by another run just now: run this again") from None

    def write(self, chunks: Sequence[_Chunk], record: Record) -> None:
        """Returns when what was written before is there."""
        if self._writing is not None:
            self._writing.result()
        rows = pa.concat_tables([chunk.table(record) for chunk in chunks]).combine_chunks()
        self._writing = self._thread.submit(self.store.write, rows, new=all(chunk.new for chunk in chunks))

    def finish(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self.do(self.store.finish)

    def __enter__(self) -> _Writer:
        try:
            self.store = self.do(open_store, self._to)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.do(self.store.close)
        finally:
            self._thread.shutdown()
