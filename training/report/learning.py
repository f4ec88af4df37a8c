"""How a model learned: its run's log as curves."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from training.errors import RunError
from training.report import charts
from training.report.axis import number
from training.report.charts import Series
from training.report.material import Material, sentence, words
from training.report.page import Figure, Section
from training.trainer import EpochRecord

_CURVES = 32
# What the field looks at besides the loss: what it says, by the name without _min, _mean or _max.
_MEANINGS = {
    "active_units": "numbers of the embedding whose variance is above 0.01",
    "dead_units": "numbers of the embedding that are the same for every row",
    "mean_sparsity": "share of an embedding's numbers that are about 0",
    "kl_nats": "what an embedding says of its row, in nats",
    "capacity_nats": "what an embedding may say of its row, in nats",
    "rhohat": "mean activation of a unit",
    "jacobian_norm": "how much an embedding moves when its row does",
    "k": "active units of an embedding",
    "learning_rate": "of Adam",
    "rows_per_second": "trained, with the look at early-stop rows",
}


def read_log(path: Path) -> list[EpochRecord]:
    """The epochs that a run's log.jsonl has; none when there is no log. Raises RunError.

    A last line without its end, of a run that lost its power, is no epoch.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    records = []
    for line_number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            try:
                records.append(EpochRecord(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise RunError(f"{path}, line {line_number}: not the record of an epoch: {error}") from None
    return records


def section(material: Material) -> Section:
    epochs, title = material.trained.epochs, "How it learned"
    if not epochs:
        return Section(title, "The run's log is gone: there is nothing to draw.")
    best = (float(material.trained.best_epoch), f"best: epoch {material.trained.best_epoch}")
    figures = [_loss(epochs, best), _parts(epochs, best), _lists(epochs)]
    text = "An epoch is one pass over the training rows; on early-stop rows nothing is trained."
    return Section(title, text, [figure for figure in figures if figure], _monitors(epochs))


def _loss(epochs: Sequence[EpochRecord], best: tuple[float, str]) -> Figure:
    # Sums of other terms are not comparable: a new phase begins a new line.
    phases = [index for index, (one, two) in enumerate(pairwise(epochs), 1) if one.train.keys() != two.train.keys()]
    at = np.insert(_numbers(epochs), phases, np.nan)
    train = np.insert([sum(record.train.values()) for record in epochs], phases, np.nan)
    early_stop = np.insert([record.early_stop_loss for record in epochs], phases, np.nan)
    series = [Series("train", "line s0", at, train), Series("early stop", "line s1", at, early_stop)]
    return Figure(
        "Loss",
        charts.lines(series, "epoch", "loss per row", "Loss by epoch, on training rows and on held-out rows", best),
        "What is minimised, summed over features and averaged over rows. Both falling: it learns. Train falling while "
        "early stop rises: it learns by heart. The weights of the best epoch are the exported ones.",
    )


def _parts(epochs: Sequence[EpochRecord], best: tuple[float, str]) -> Figure | None:
    names = list(dict.fromkeys(name for record in epochs for name in record.early_stop))
    if len(names) < 2:
        return None
    series = [
        Series(words(name), f"line s{index % charts.COLOURS}", _numbers(epochs), _values(epochs, "early_stop", name))
        for index, name in enumerate(names)
    ]
    return Figure(
        "Parts of the loss",
        charts.lines(series, "epoch", "early-stop loss per row", "Each part of the loss by epoch", best),
        "The terms whose sum is the early-stop loss; where training has phases, what each of them minimises.",
    )


def _lists(epochs: Sequence[EpochRecord]) -> Figure | None:
    """A faint line for each number of a recorded list."""
    for name in epochs[-1].monitor:
        recorded = [value for record in epochs if isinstance(value := record.monitor.get(name), list)]
        if len(recorded) == len(epochs):
            values = np.array(recorded)
            largest = np.argsort(-values[-1], kind="stable")[:_CURVES]
            series = [Series(f"dimension {n}", "thin s0", _numbers(epochs), values[:, n]) for n in largest]
            return Figure(
                sentence(words(name)),
                charts.lines(series, "epoch", "", f"{words(name)} by epoch", key=False),
                "A line for each dimension of the embedding: one that rises has found something to say of the rows, "
                "one that stays at the bottom is not used.",
            )
    return None


def _monitors(epochs: Sequence[EpochRecord]) -> list[Figure]:
    """A small chart for each number that was recorded and changed; minimum, mean and maximum share one."""
    stems: dict[str, list[str]] = {}
    for name, value in epochs[-1].monitor.items():
        if not isinstance(value, list):
            stems.setdefault(re.sub(r"_(min|mean|max)$", "", name), []).append(name)
    recorded = {
        stem: {words(name.removeprefix(stem)): _values(epochs, "monitor", name) for name in names}
        for stem, names in stems.items()
    }
    recorded["learning_rate"] = {"": np.array([record.learning_rate for record in epochs])}
    recorded["rows_per_second"] = {"": np.array([record.rows_per_second for record in epochs])}
    return [_small(epochs, stem, lines) for stem, lines in recorded.items() if any(map(_changes, lines.values()))]


def _small(epochs: Sequence[EpochRecord], stem: str, lines: dict[str, np.ndarray]) -> Figure:
    series = [
        Series(name, f"line s{index}", _numbers(epochs), values) for index, (name, values) in enumerate(lines.items())
    ]
    last = ", ".join(number(float(values[-1])) for values in lines.values())
    meaning = f"{_MEANINGS[stem]}; " if stem in _MEANINGS else ""
    body = charts.lines(series, "", "", f"{words(stem)} by epoch", small=True)
    return Figure(words(stem), body, f"{meaning}in the end {last}")


def _changes(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and bool(finite.min() < finite.max())


def _numbers(epochs: Sequence[EpochRecord]) -> np.ndarray:
    return np.array([record.epoch for record in epochs], np.float64)


def _values(epochs: Sequence[EpochRecord], group: str, name: str) -> np.ndarray:
    """float64 [epochs]: NaN where an epoch has no such number."""
    return np.array([getattr(record, group).get(name, np.nan) for record in epochs], np.float64)
