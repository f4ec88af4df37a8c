from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode

from training import data
from training.config import FitConfig
from training.data import Dataset
from training.errors import DataError
from training.scaling import Scaling

Config = Callable[..., FitConfig]
TABLE = np.random.default_rng(0).normal(size=(40, 3)).round(3).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (12, 5, 7)).astype(np.uint8)


def write_csv(path: Path, rows: np.ndarray = TABLE, header: str = "a,b,c\n") -> Path:
    path.write_text(header + "".join(",".join(str(value) for value in row) + "\n" for row in rows.tolist()))
    return path


@given(n=st.integers(data.MIN_ROWS, 3000), seed=st.integers(0, 2**63 - 1))
def test_the_three_splits_are_disjoint_cover_all_rows_and_are_never_empty(n: int, seed: int):
    dataset = Dataset("", torch.arange(n, dtype=torch.float32)[:, None], ("a",), "")
    splits = data.split(dataset, seed)
    parts = [splits.train, splits.early_stop, splits.calibration]
    assert torch.cat(parts)[:, 0].sort().values.equal(dataset.rows[:, 0])
    assert min(splits.sizes().values()) >= 1
    assert abs(splits.sizes()["train"] - 0.7 * n) <= 1
    assert abs(splits.sizes()["early_stop"] - 0.1 * n) <= 1


def test_the_seed_alone_decides_the_splits(config: Config):
    digits = data.load(config())
    assert data.split(digits, 1).train.equal(data.split(digits, 1).train)
    assert not data.split(digits, 1).train.equal(data.split(digits, 2).train)


def test_every_table_format_gives_the_same_numbers_and_hash(config: Config, tmp_path: Path):
    files = [write_csv(tmp_path / "t.csv"), tmp_path / "t.parquet", tmp_path / "t.npy", tmp_path / "t.npz"]
    pq.write_table(pa.table({name: TABLE[:, i] for i, name in enumerate("abc")}), files[1])
    np.save(files[2], TABLE)
    np.savez(files[3], X=TABLE, y=np.zeros(40))
    loaded = [data.load(config(data=str(file))) for file in files]
    for dataset in loaded:
        np.testing.assert_array_equal(dataset.rows.numpy(), TABLE)
        assert dataset.rows.dtype == torch.float32
    assert len({dataset.sha256 for dataset in loaded}) == 1
    assert [dataset.columns for dataset in loaded] == [("a", "b", "c")] * 2 + [("c0", "c1", "c2")] * 2
    assert loaded[0].source == "t.csv"


def test_every_image_format_gives_the_same_numbers(config: Config, tmp_path: Path):
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in IMAGES.shape)
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(header + IMAGES.tobytes()))
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "pngs").mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "pngs" / f"{i:02}.png")
    for name in ("images-idx3-ubyte.gz", "images.npy", "pngs"):
        dataset = data.load(config(data=str(tmp_path / name)))
        np.testing.assert_array_equal(dataset.rows.numpy(), IMAGES.astype(np.float32), err_msg=name)
        assert dataset.columns is None
        assert dataset.row_shape == (5, 7)


def test_a_changed_number_changes_the_hash(config: Config, tmp_path: Path):
    changed = TABLE.copy()
    changed[7, 1] += 0.001
    hashes = [data.load(config(data=str(write_csv(tmp_path / "t.csv", rows)))).sha256 for rows in (TABLE, changed)]
    assert hashes[0] != hashes[1]


def test_digits_are_built_in(config: Config):
    digits = load_digits()
    assert data.load(config()).rows.numpy().tolist() == digits.images.tolist()
    without = data.load(config(label="label", exclude_label="3,5"))
    np.testing.assert_array_equal(without.rows.numpy(), digits.images[~np.isin(digits.target, [3, 5])])
    assert without.row_shape == (8, 8)


def test_labels_and_ignored_columns_are_no_part_of_a_row(config: Config, tmp_path: Path):
    file = tmp_path / "t.csv"
    kinds = ["good", "bad"] * 20
    lines = [f"{i},{a},{b},{kind}\n" for i, ((a, b, _), kind) in enumerate(zip(TABLE.tolist(), kinds, strict=True))]
    file.write_text("id,a,b,kind\n" + "".join(lines))
    dataset = data.load(config(data=str(file), label="kind", exclude_label="bad", ignore="id"))
    assert dataset.columns == ("a", "b")
    np.testing.assert_array_equal(dataset.rows.numpy(), TABLE[::2, :2])


@pytest.mark.parametrize("written", ["1", "1.0", "01"])
def test_a_label_may_be_written_as_any_number_it_equals(config: Config, tmp_path: Path, written: str):
    np.savez(tmp_path / "t.npz", X=TABLE, y=np.arange(40) % 2)
    dataset = data.load(config(data=str(tmp_path / "t.npz"), label="y", exclude_label=written))
    np.testing.assert_array_equal(dataset.rows.numpy(), TABLE[::2])


def test_pixels_may_be_constant_but_not_all(config: Config, tmp_path: Path):
    images = IMAGES.copy()
    images[:, 0, 0] = 0
    np.save(tmp_path / "images.npy", images)
    assert len(data.load(config(data=str(tmp_path / "images.npy"))).rows) == 12
    np.save(tmp_path / "images.npy", np.full_like(images, 7))
    with pytest.raises(DataError, match="every number is 7"):
        data.load(config(data=str(tmp_path / "images.npy")))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"label": "knd"}, "no column 'knd': did you mean 'kind'"),
        ({"ignore": "a,z"}, "no column 'z'"),
        ({"ignore": "a,b,c", "label": "kind"}, "no column is left"),
        ({"exclude_label": "1"}, "--exclude-label needs --label"),
        ({"label": "kind", "exclude_label": "goods"}, "no row has the label 'goods' (did you mean good?)"),
        ({"label": "kind", "exclude_label": "good,bad"}, "every label is among --exclude-label"),
    ],
)
def test_wrong_columns_and_labels_are_refused(config: Config, tmp_path: Path, settings: dict[str, str], says: str):
    file = tmp_path / "t.csv"
    rows = [f"{a},{b},{c},{'good' if a > 0 else 'bad'}\n" for a, b, c in TABLE.tolist()]
    file.write_text("a,b,c,kind\n" + "".join(rows))
    with pytest.raises(DataError) as error:
        data.load(config(data=str(file), **settings))
    assert says in str(error.value)


@pytest.mark.parametrize("start", [0, 1])
def test_an_index_that_was_saved_with_the_table_is_noticed(
    tmp_path: Path, config: Callable[..., FitConfig], start: int
) -> None:
    file = tmp_path / "t.csv"
    values = np.random.default_rng(0).standard_normal(50)
    file.write_text(",a\n" + "".join(f"{start + i},{value}\n" for i, value in enumerate(values)))
    dataset = data.load(config(data=str(file)))
    assert dataset.columns is not None
    assert data.counting_column(dataset) == dataset.columns[0]
    shuffled = data.Dataset(dataset.source, dataset.rows.flip(0), dataset.schema, dataset.sha256)
    assert data.counting_column(shuffled) is None


@pytest.mark.parametrize("excluded", [(), ("3", "8.0")])
def test_labels_stay_with_their_rows(config: Config, excluded: tuple[str, ...]):
    dataset = data.load(config(label="label", exclude_label=excluded))
    digits = load_digits()
    of_row = {
        image.astype(np.float32).tobytes(): str(label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    splits = data.split(dataset, 0)
    for labels, rows in ((dataset.labels, dataset.rows), (splits.calibration_labels, splits.calibration)):
        assert labels is not None
        assert list(labels) == [of_row[row.tobytes()] for row in rows.numpy()]
    without = data.load(config())
    assert (without.labels, data.split(without, 0).calibration_labels) == (None, None)


def test_labels_are_kept_as_people_read_them(config: Config, tmp_path: Path):
    kinds = [1.0, 2.5, None, 3.0] * 10
    pq.write_table(pa.table({"a": TABLE[:, 0], "kind": kinds}), tmp_path / "t.parquet")
    labels = data.load(config(data=str(tmp_path / "t.parquet"), label="kind")).labels
    assert labels == ("1", "2.5", "without label", "3") * 10


def test_images_are_scaled_by_their_extremes_without_a_copy_of_them():
    largest: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = function(*args, **(kwargs or {}))
            largest.append(made.numel())
            return made

    images = torch.rand(50, 4, 5) * 3 - 0.7
    with Sizes():
        scaling = Scaling.of(images)
    assert max(largest) == 1
    exact = images.double()
    assert scaling.shift == exact.min().float()
    assert scaling.scale == (exact.max() - exact.min()).float()


def test_excluded_rows_are_kept_apart(config: Config, tmp_path: Path):
    """They are no part of what is learned from, nor of its hash."""
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    state = np.array(["ok", "leak", "ok", "worn"] * 10)
    np.savez(tmp_path / "all.npz", X=rows, state=state)
    np.savez(tmp_path / "ok.npz", X=rows[state == "ok"], state=state[state == "ok"])
    dataset = data.load(config(data=str(tmp_path / "all.npz"), label="state", exclude_label="leak,worn"))
    alone = data.load(config(data=str(tmp_path / "ok.npz"), label="state"))
    assert dataset.sha256 == alone.sha256
    assert alone.excluded is None
    assert dataset.excluded
    np.testing.assert_array_equal(dataset.excluded.rows, rows[state != "ok"])
    assert dataset.excluded.labels == ("leak", "worn") * 10
    assert dataset.excluded.total == 20


def test_of_many_excluded_rows_some_are_drawn(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "MOST_EXCLUDED", 200)
    monkeypatch.setattr(data, "_READ_ROWS", 300)
    numbers = np.arange(2_000, dtype=np.float32)
    np.savez(tmp_path / "t.npz", X=numbers[:, None], y=(numbers % 2).astype(int))
    settings = {"data": str(tmp_path / "t.npz"), "label": "y", "exclude_label": "1"}
    found = data.load(config(**settings)).excluded
    assert found
    drawn = found.rows[:, 0].numpy()
    assert (found.total, len(drawn), len(found.labels)) == (1_000, 200, 200)
    assert (drawn % 2 == 1).all()
    assert len(np.unique(drawn)) == 200
    assert drawn.mean() == pytest.approx(1_000, abs=4 * 577 / np.sqrt(200))  # from all over the file
    again = data.load(config(**settings)).excluded
    assert again
    assert found.rows.equal(again.rows)


def test_copies_are_counted():
    rows = np.array([[1, 2], [3, 4], [1, 2], [1, 2]], dtype=np.float32)
    assert data.copies(Dataset.of("x", rows, None)) == 0.5
    assert data.copies(Dataset.of("x", rows[:2], None)) == 0


def test_labels_are_what_they_say_not_the_spaces_around_them(config: Config, tmp_path: Path):
    lines = [f"{i}, {i * i % 7}, {'>50K' if i % 3 else '<=50K'}" for i in range(60)]
    (tmp_path / "adult.csv").write_text("\n".join(lines))
    found = data.load(config(data=str(tmp_path / "adult.csv"), label="c2", exclude_label=">50K"))
    assert found.labels == ("<=50K",) * 20
    assert found.excluded
    assert found.excluded.total == 40


@pytest.mark.parametrize("stride", [1, 3])
def test_an_index_among_the_channels_of_windows_is_noticed(config: Config, tmp_path: Path, stride: int):
    rows = np.stack([np.arange(400), np.sin(np.arange(400) / 7)], axis=1).astype(np.float32)
    write_csv(tmp_path / "t.csv", rows, "n,wave\n")
    dataset = data.load(config(data=str(tmp_path / "t.csv"), window=8, stride=stride))
    assert dataset.columns
    assert data.counting_column(dataset) == dataset.columns[0]


def test_a_series_of_nothing_but_gaps_is_told_how_it_can_be_read(config: Config, tmp_path: Path):
    at = np.cumsum(np.tile([40, 40, 40, 400], 100))
    rows = np.stack([at, np.sin(np.arange(400) / 7)], axis=1)
    write_csv(tmp_path / "t.csv", rows, "at,wave\n")
    settings = {"data": str(tmp_path / "t.csv"), "window": 16}
    with pytest.raises(DataError, match=r"in 101 pieces between gaps.*--ignore at in place of --time"):
        data.load(config(**settings, time="at"))
    assert len(data.load(config(**settings, ignore="at")).rows)
