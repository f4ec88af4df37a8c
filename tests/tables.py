"""A table as people have them: numbers that belong together, categories, flags, ids, labels, and holes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TAKEN = ("age", "income", "height", "kind", "city", "member")  # what a model learns from
Table = Mapping[str, np.ndarray]


def mixed(n: int, seed: int, holes: float = 0.0) -> dict[str, np.ndarray]:
    """By column: TAKEN of it float64 [n] and object [n], NaN and None where a cell is missing, as a share `holes` of
    them is at random; and `id` and `state`, both without holes."""
    rng = np.random.default_rng(seed)
    wealth = rng.normal(size=n)
    columns: dict[str, np.ndarray] = {
        "id": np.array([f"r{i}" for i in range(n)], dtype=object),
        "age": 40 + 12 * wealth + 2 * rng.normal(size=n),
        "income": 20_000 + 6_000 * wealth + 1_000 * rng.normal(size=n),
        "height": 170 + 8 * rng.normal(size=n),
        "kind": np.select([wealth < -0.5, wealth < 0.7], ["student", "worker"], "boss").astype(object),
        "city": rng.choice(["Rome", "Oslo, north", "Lima"], size=n, p=[0.5, 0.3, 0.2]).astype(object),
        "member": np.where(wealth + 0.3 * rng.normal(size=n) > 0, "yes", "no").astype(object),
        "state": np.array(["ok"] * n, dtype=object),
    }
    for name in TAKEN:
        columns[name][rng.random(n) < holes] = np.nan if columns[name].dtype == np.float64 else None
    return columns


def write(file: Path, table: Table) -> Path:
    """As CSV, an empty cell where one is missing."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        for row in zip(*(column.tolist() for column in table.values()), strict=True):
            writer.writerow(["" if cell is None or cell != cell else cell for cell in row])
    return file
