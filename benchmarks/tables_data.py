"""The mixed tables of the shared data, as files with a header that a user would have."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks import anomaly_data

_ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
_HOST = ("same_srv_rate", "diff_srv_rate", "same_src_port_rate", "srv_diff_host_rate")
_ERRORS = ("serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate")
_KDD = (
    *("duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent"),
    *("hot", "num_failed_logins", "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root"),
    *("num_file_creations", "num_shells", "num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login"),
    *("count", "srv_count", *_ERRORS, "same_srv_rate", "diff_srv_rate", "srv_diff_host_rate"),
    *("dst_host_count", "dst_host_srv_count", *(f"dst_host_{name}" for name in (*_HOST, *_ERRORS)), "label"),
)
KDD_LABEL, KDD_NORMAL = "label", "normal."


@dataclass(frozen=True)
class TableSet:
    """table: the rows; label: a column beside them."""

    name: str
    table: pa.Table
    label: str | None = None
    ignore: tuple[str, ...] = field(default=())

    def write(self, rows: np.ndarray, file: Path) -> None:
        """Some rows as a Parquet file."""
        pq.write_table(self.table.take(rows), file)


def mixed(folder: Path) -> Iterator[TableSet]:
    """adult and the Beijing pollution, whose row number is no measurement."""
    yield TableSet("adult", _csv(folder / "adult-train.csv.gz", _ADULT), "income")
    yield TableSet("pollution", _csv(folder / "pollution.csv.gz", None), ignore=("No",))


def intrusions(folder: Path) -> TableSet:
    """10 % of KDD Cup 1999."""
    return TableSet("kddcup", _csv(folder / "kddcup.data_10_percent.gz", _KDD), KDD_LABEL)


def adbench(folder: Path) -> Iterator[TableSet]:
    """Without labels and without columns that never change."""
    for name, file in anomaly_data.names(folder).items():
        rows = anomaly_data.read(name, file).rows
        rows = rows[:, rows.min(axis=0) < rows.max(axis=0)]
        yield TableSet(name, pa.table({f"c{i}": column for i, column in enumerate(rows.T)}))


def _csv(file: Path, names: Sequence[str] | None) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(
        null_values=["NA", "?", " ?"], strings_can_be_null=True, include_columns=list(names or ())
    )
    with gzip.open(file) as stream:
        table = pyarrow.csv.read_csv(stream, pyarrow.csv.ReadOptions(column_names=names), convert_options=options)
    texts = {name: pc.utf8_trim_whitespace(table[name]) for name in table.column_names if _is_text(table[name].type)}
    for name, column in texts.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind))
