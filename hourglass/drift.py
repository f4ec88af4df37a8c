"""hourglass drift: rows of a file, or those that came to the server last, against the model's calibration rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from hourglass.client import Client
from hourglass.contract.drift import Drift, Sketch
from hourglass.messages import ModelDrift
from hourglass.models import ModelInfo

_WORST = 10
_NAME_WIDTH = 40


def of_rows(client: Client, known: ModelDrift, batches: Iterable[np.ndarray], advance: Callable[[int], None]) -> Drift:
    """Scores the rows, float32 [n, *row_shape] each batch, and counts them. advance: told how many rows are done."""
    waiting: deque[np.ndarray] = deque()

    def asked() -> Iterator[np.ndarray]:
        for rows in batches:
            waiting.append(rows)
            yield rows

    sketch, nothing = known.sketch, np.zeros(0, dtype=np.float32)
    counts = sketch.count(np.zeros((0, sketch.size), dtype=np.float32))
    scored = sketch.count_scores(nothing, nothing, nothing)
    for answer in client.score_batches(known.model.name, asked(), version=known.model.version):
        counts += sketch.count(waiting.popleft())
        scored += sketch.count_scores(answer.score, answer.p_value, answer.clipped)
        advance(len(answer.score))
    return sketch.compare(counts, scored, counts.rows)


def show(console: Console, model: ModelInfo, sketch: Sketch, drift: Drift, whose: str) -> None:
    """The features that are farthest off, the score, and the verdict. whose: the rows, "rows of the file"."""
    if not drift.rows:
        console.print(f"{model.model.name} version {model.model.version}: no rows to compare yet")
        return
    names = sketch.names(model.columns, model.row_shape)
    has_missing = bool(drift.missing.any() or drift.missing_before.any())
    worst = drift.worst(_WORST)
    table = Table(title=f"features by distance from the calibration rows (the limit is {drift.limit:.3g})")
    table.add_column("feature", overflow="fold")
    for header in (
        *("KS", "PSI"),
        *(["missing", "missing\nbefore"] * has_missing),
        *(["unknown", "unknown\nbefore"] * bool(sketch.categorical)),
    ):
        table.add_column(header, justify="right", no_wrap=True)
    if drift.drifted[worst].any():
        table.add_column("verdict", no_wrap=True)
    for i in worst:
        cells = [_shortened(names[i]), f"{drift.ks[i]:.3f}", f"{drift.psi[i]:.3f}"]
        if has_missing:
            cells += [f"{drift.missing[i]:.1%}", f"{drift.missing_before[i]:.1%}"]
        if sketch.categorical:
            cells += [_share(drift.unknown[i]), _share(drift.unknown_before[i])]
        table.add_row(*cells, *(["drifts"] * bool(drift.drifted[i])))
    console.print(table)
    if drift.scored:
        console.print(
            f"score: KS {drift.score_ks:.3f}, limit {drift.score_limit:.3g}; PSI {drift.score_psi:.3f}; mean p-value "
            f"{drift.mean_p_value:.3f}, about 0.5 without drift; numbers clipped {drift.clipped:.2%}, before "
            f"{drift.clipped_before:.2%}"
        )
    else:
        console.print("score: none of these rows was scored, so it is not compared")
    console.print(_verdict(model, sketch, drift, whose))


def _verdict(model: ModelInfo, sketch: Sketch, drift: Drift, whose: str) -> str:
    drifted = int(drift.drifted.sum())
    beyond = [f"{drifted:,} of {len(drift.ks):,} features"] * bool(drifted) + ["the score"] * drift.score_drifted
    verdict = f"drift: {' and '.join(beyond)} beyond the limit" if beyond else "do not drift: nothing beyond the limit"
    return (
        f"{model.model.name} version {model.model.version}: {drift.rows:,} {whose} {verdict}, which rows like the "
        f"{sketch.rows:,} calibration rows exceed in at most 1 case of 100"
    )


def _share(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.1%}"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
