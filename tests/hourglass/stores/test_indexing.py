"""What makes a job resumable: digests, and ids that are there once. No store and no server is asked."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hourglass.indexing import digests
from hourglass.stored_columns import FirstRows

X = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)


def test_digests_do_not_depend_on_how_rows_come() -> None:
    whole = digests(X, [pa.array(list("abcdef"))])
    assert len(set(whole)) == 6
    assert {len(digest) for digest in whole} == {16}
    parts = [digests(X[i : i + 1], [pa.array(["abcdef"[i]])])[0] for i in range(6)]
    assert parts == whole
    assert digests(X[::-1], [pa.array(list("fedcba"))]) == whole[::-1]  # an array whose rows are not in a row
    assert digests(X[:0], []) == []


def test_digests_tell_all_values_apart() -> None:
    moment = datetime.datetime(2026, 1, 1)
    columns = [
        [pa.array([value], kind)]
        for value, kind in [
            (None, pa.string()),
            ("", pa.string()),
            ("1", pa.string()),
            (1, pa.int64()),
            (1.0, pa.float64()),
            (True, pa.bool_()),
            (moment, pa.timestamp("us")),
            (moment.date(), pa.date32()),
        ]
    ]
    two = [[pa.array(["a"]), pa.array(["b, c"])], [pa.array(["a, b"]), pa.array(["c"])], [pa.array(["a', 'b"])]]
    found = [digests(X[:1], cells)[0] for cells in [[], *columns, *two]]
    assert len(set(found)) == len(found)
    almost = X[:1].copy()
    almost[0, 0, 0] = np.nextafter(almost[0, 0, 0], np.float32(9))
    assert digests(almost, []) != digests(X[:1], [])


@given(st.lists(st.lists(st.integers(-5, 40), max_size=6), max_size=12))
def test_the_first_of_two_rows_with_one_id_is_found(batches: list[list[int]]) -> None:
    firsts, seen, place = FirstRows(), dict[int, int](), 0
    for batch in batches:
        rows = np.arange(place, place + len(batch))
        place += len(batch)
        twice = None
        for key, row in zip(batch, rows.tolist(), strict=True):
            if key in seen and twice is None:
                twice = (row, seen[key])
            seen.setdefault(key, row)
        assert firsts.add(np.array(batch, dtype=np.int64), rows) == twice
        if twice is not None:
            return
