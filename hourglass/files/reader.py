"""Which reader a path gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hourglass.files.arrays import open_idx, open_npy, open_npz
from hourglass.files.csv import open_csv
from hourglass.files.images import open_folder
from hourglass.files.rows import FileError, RowFile, kind_of, readable
from hourglass.files.tables import open_parquet

_READERS: dict[str, Callable[[Path], RowFile]] = {
    ".csv": open_csv,
    ".parquet": open_parquet,
    ".npy": open_npy,
    ".npz": open_npz,
    "idx": open_idx,
}


def open_rows(path: Path) -> RowFile:
    """Looks at a file's start and says what its rows are; `batches` of the answer reads them.

    .csv, .tsv, .txt and .data, gzipped or not, .parquet, .npy, .npz (the array `X`), idx and idx.gz, or a folder of
    .png. Raises FileError.
    """
    with readable(path):
        if path.is_dir():
            return open_folder(path)
        kind = kind_of(path)
        if kind not in _READERS or (path.name.lower().endswith(".gz") and kind not in (".csv", "idx")):
            raise FileError(
                f"{path}: not a kind of file that is read here: .csv, .tsv, .txt, .data, any of them .gz, .parquet, "
                ".npy, .npz, idx, idx.gz, or a folder of .png"
            )
        return _READERS[kind](path)
