"""What the anomaly benchmark's records say, on the terminal and as docs/anomaly-benchmark.md: made of them alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Shown

from benchmarks.anomaly_data import MOST_ROWS, PROTOCOLS
from benchmarks.anomaly_methods import OURS, PEERS
from benchmarks.anomaly_promises import ASKED, FALSE_DISCOVERIES, interval
from benchmarks.anomaly_records import Promises, Record

PAGE = Path(__file__).parent.parent / "docs" / "anomaly-benchmark.md"
DEFAULT, *_ABLATIONS = OURS
REACHED, MISSED = "reached", "**not reached**"

# (protocol, other) -> bar and goal of ours minus the other's mean AUROC, in points.
BARS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("clean", "PyOD KNN"): (-1, 0),
    ("clean", "PyOD AutoEncoder"): (2, 4),
    ("clean", "PyOD VAE"): (4, 8),
    ("clean", "PyOD IForest"): (2, None),
    ("clean", "PyOD PCA 90 %"): (6, None),
    ("contaminated", "PyOD IForest"): (-2, 0),
    ("contaminated", "PyOD AutoEncoder"): (5, None),
    ("contaminated", "PyOD VAE"): (0, None),
    ("contaminated", "PyOD KNN"): (10, None),
    **dict.fromkeys(product(PROTOCOLS, _ABLATIONS), (0, None)),
}
_INSIDE, _ABOVE, _FIT_TIME = 0.90, 0.05, 1.0
_TIMED = "PyOD AutoEncoder"
# By the clock, of the processor.
_TRAINED = ("train_seconds", "train_processor_seconds")
_PUBLISHED = ("fit_seconds", "fit_processor_seconds")

_HEAD = f"""# Anomaly scores beside PyOD's

`make bench-anomaly` measures this and writes this page, from the records in
[benchmarks/results/anomaly](../benchmarks/results/anomaly), one line for each set, seed, protocol and method. The sets
are some of ADBench's; means over them are not comparable with published means over its 57.

Each set is split anew by each seed. **clean**: half of the normal rows train; the other half and all anomalies test.
**contaminated**: 70 % of the normal rows and 70 % of the anomalies train, without labels; the rest tests. Of sets above
{MOST_ROWS:,} rows as many are drawn. Columns constant in the training rows are left out, the others standardised by
them, in float32; all methods get the same numbers and run with their default settings, ours from a file through `fit`
to the published `model.onnx`, PyOD's through `fit` and `decision_function`.
"""


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def missed(self) -> bool:
        return any(MISSED in row for row in self.rows)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"## {self.title}\n{self.note}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def rich(self) -> Shown:
        table = Shown(title=self.title, box=SIMPLE, padding=(0, 1, 0, 0))
        for column in self.columns:
            table.add_column(column)
        for row in self.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        return table


def show(records: Sequence[Record], console: Console) -> bool:
    """Prints the tables; whether a bar is missed."""
    tables = list(_tables(records))
    for table in tables:
        console.print(table.rich())
    return any(table.missed for table in tables)


def write(records: Sequence[Record]) -> None:
    parts = [_HEAD, *(table.markdown() for table in _tables(records)), "## Measured with", *_machines(records)]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _tables(records: Sequence[Record]) -> Iterator[Table]:
    """Those that there are records for."""
    yield _means(records)
    ours = [record for record in records if record.method == DEFAULT]
    if ours:
        yield _differences(ours, records)
    for protocol in PROTOCOLS:
        yield _sets(protocol, [record for record in records if record.protocol == protocol])
    if promised := [(record, record.promises) for record in ours if record.promises]:
        yield _promises([promises for _, promises in promised])
        yield _promises_by_set(promised)
    yield _times(records)
    if (ratio := _fit_ratio(ours, records)).rows:
        yield ratio


def _means(records: Sequence[Record]) -> Table:
    rows = []
    for method in _methods(records):
        row = [method]
        for protocol in PROTOCOLS:
            of = [record for record in records if (record.method, record.protocol) == (method, protocol)]
            row += [_points([r.auroc for r in of]), _points([r.auprc for r in of]), str(len(of))]
        rows.append(row)
    columns = ["method", *(column for protocol in PROTOCOLS for column in (protocol, "AUPRC", "n"))]
    note = "AUROC, and beside it AUPRC (average precision), in points: the means of n sets and seeds."
    return Table("Mean AUROC", note, columns, rows)


def _differences(ours: Sequence[Record], records: Sequence[Record]) -> Table:
    rows = []
    for protocol, other in product(PROTOCOLS, [method for method in _methods(records) if method != DEFAULT]):
        pairs = _paired([r for r in ours if r.protocol == protocol], [r for r in records if r.method == other])
        if not pairs:
            continue
        by_set = [
            statistics.mean(_difference(pair) for pair in group)
            for _, group in groupby(pairs, lambda pair: pair[0].set)
        ]
        difference, error = _mean_and_error([_difference(pair) for pair in pairs])
        bar, goal = BARS.get((protocol, other), (None, None))
        rows.append(
            [
                protocol,
                other,
                str(len(pairs)),
                f"{difference:+.2f}",
                f"{error:.2f}",
                f"{_mean_and_error(by_set)[1]:.2f}",
                "" if bar is None else f"≥ {bar:+g}",
                "" if bar is None else _verdict(difference >= bar),
                "" if goal is None else f"≥ {goal:+g}, {'reached' if difference >= goal else 'not yet'}",
            ]
        )
    note = (
        f"Mean AUROC of `{DEFAULT}` minus the other's, in points, paired by set and seed. s.e.: the standard deviation "
        "of the n paired differences over the root of n. Seeds of one set are alike: beside it the same of the sets' "
        "means, for those who ask about other sets."
    )
    columns = ["protocol", "minus", "n", "points", "s.e.", "of sets", "bar", "", "goal"]
    return Table("Ours minus theirs", note, columns, rows)


def _sets(protocol: str, records: Sequence[Record]) -> Table:
    methods, sets = _methods(records), _names(records)
    rows = []
    for name in sets:
        of = {method: [r.auroc for r in records if (r.set, r.method) == (name, method)] for method in methods}
        rows.append([name, *(f"{_points(values)}±{_spread(values)}" if values else "" for values in of.values())])
    note = "Points: the mean over seeds ± their standard deviation."
    return Table(f"AUROC by set, {protocol}", note, ["set", *(m.removeprefix("PyOD ") for m in methods)], rows)


def _promises(promised: Sequence[Promises]) -> Table:
    rows = []
    inside = above = count = 0
    for rate in ASKED:
        found = [
            (alarms, promises.fresh_rows, interval(promises.calibration_rows, promises.fresh_rows, rate))
            for promises in promised
            if (alarms := promises.alarms[f"{rate:g}"]) is not None
        ]
        count += len(found)
        inside += sum(low <= alarms <= high for alarms, _, (low, high) in found)
        above += sum(alarms > high for alarms, _, (_, high) in found)
        realised = (
            f"{_percent(statistics.mean([alarms / fresh for alarms, fresh, _ in found]))} of" if found else "none of"
        )
        refused = len(promised) - len(found)
        rows.append(
            [f"asked {_percent(rate, 0)}", f"{realised} fresh rows, mean of {len(found)}; {refused} refused", "", ""]
        )
    if count:
        rows.append(
            [
                "inside the interval",
                _of(inside, count),
                f"≥ {_percent(_INSIDE, 0)}",
                _verdict(inside / count >= _INSIDE),
            ]
        )
        rows.append(
            ["above its upper end", _of(above, count), f"≤ {_percent(_ABOVE, 0)}", _verdict(above / count <= _ABOVE)]
        )
    shares = [promises.discoveries.false_share for promises in promised]
    mean, error = _mean_and_error(shares)
    rows.append(
        [
            f"false discoveries, asked {_percent(FALSE_DISCOVERIES, 0)}",
            f"{_percent(mean, 2)}, s.e. {_percent(error, 2)}",
            f"≤ {_percent(FALSE_DISCOVERIES, 0)} + 2 s.e.",
            _verdict(mean <= FALSE_DISCOVERIES + 2 * error),
        ]
    )
    unlike = sum(promises.ks_p_value < 0.05 for promises in promised)
    rows.append(["fresh scores unlike calibration's", f"{_of(unlike, len(promised))} (KS, 5 %)", "", ""])
    same = sum(promises.repeats_identical for promises in promised)
    rows.append(["scored again: the same bits", _of(same, len(promised)), "all", _verdict(same == len(promised))])
    note = (
        f"`{DEFAULT}` on the clean protocol, each set and seed. The 95 % interval of the alarms among m fresh normal "
        "rows at a rate α is that of BetaBinomial(m, k, n + 1 − k) with n calibration rows and k = ⌊(n + 1)α⌋; a rate "
        "is refused when k = 0. False discoveries: Benjamini-Hochberg on 200 batches, drawn by the seed, of 100 normal "
        "rows of the test and 5 anomalies (fewer in proportion where there are not 100); s.e. over sets and seeds."
    )
    return Table("Promises", note, ["", "realised", "bar", ""], rows)


def _promises_by_set(promised: Sequence[tuple[Record, Promises]]) -> Table:
    rows = []
    for name in _names([record for record, _ in promised]):
        of = [promises for record, promises in promised if record.set == name]
        realised = []
        for rate in ASKED:
            kept = [p.alarms[f"{rate:g}"] for p in of]
            shares = [alarms / p.fresh_rows for alarms, p in zip(kept, of, strict=True) if alarms is not None]
            realised.append(_percent(statistics.mean(shares)) if shares else "refused")
        rows.append(
            [
                name,
                str(of[0].calibration_rows),
                str(of[0].fresh_rows),
                *realised,
                f"{statistics.mean([p.ks_distance for p in of]):.3f}",
                _percent(statistics.mean([p.discoveries.false_share for p in of])),
                _percent(statistics.mean([p.discoveries.found_share for p in of])),
            ]
        )
    note = (
        "Means over seeds. KS: largest distance of the distribution of fresh p-values from uniform. With few "
        "calibration rows no p-value is small enough to discover anything: nothing false, nothing found."
    )
    columns = ["set", "calibration", "fresh", *(f"asked {_percent(rate, 0)}" for rate in ASKED), "KS", "false", "found"]
    return Table("Promises by set", note, columns, rows)


def _times(records: Sequence[Record]) -> Table:
    rows = []
    for method, protocol in product(_methods(records), PROTOCOLS):
        passes = _by_seed([r for r in records if (r.method, r.protocol) == (method, protocol)])
        if passes:
            sums = [
                statistics.mean(sum(getattr(record, seconds) for record in every) for every in passes)
                for seconds in (*_TRAINED, *_PUBLISHED, "score_seconds")
            ]
            rows.append([method, protocol, str(len(passes)), *(f"{seconds:.1f}" for seconds in sums)])
    note = (
        "Seconds for all sets once, by the clock and of the processor, mean over seeds, with other programs beside it. "
        "trained: ours has read the file and trained, and its score has learned; PyOD's `fit` has returned. published: "
        "the whole of `hourglass-train fit`, with three graphs proven against torch, the report and the published "
        "version; PyOD publishes nothing. The first fit of a process is not timed."
    )
    columns = ["method", "protocol", "seeds", "trained", "processor", "published", "processor", "score"]
    return Table("Time", note, columns, rows)


def _fit_ratio(ours: Sequence[Record], records: Sequence[Record]) -> Table:
    theirs = [record for record in records if record.method == _TIMED]
    rows = []
    for protocol in PROTOCOLS:
        pairs = _paired([record for record in ours if record.protocol == protocol], theirs)
        in_turns = {one.key: other for one, other in pairs if one.run == other.run}
        passes = _by_seed([one for one, _ in pairs if one.key in in_turns])
        if not passes:
            continue
        for what, (clock, processor) in {"trained": _TRAINED, "published": _PUBLISHED}.items():
            by_clock, by_processor = (
                [
                    sum(getattr(one, seconds) for one in every)
                    / sum(getattr(in_turns[one.key], seconds) for one in every)
                    for every in passes
                ]
                for seconds in (clock, processor)
            )
            judged = protocol == "clean" and what == "trained"
            bar = [f"≤ {_FIT_TIME:g}", _verdict(statistics.mean(by_clock) <= _FIT_TIME)] if judged else ["", ""]
            rows.append([protocol, what, str(len(in_turns)), _range(by_clock), _range(by_processor), *bar])
    note = (
        f"Seconds of `{DEFAULT}` over those of {_TIMED}'s `fit`, summed over sets: of sets and seeds that both fitted "
        "in turns, in one run. Mean over seeds, and range. The bar is for what both do, to train and let the score "
        "learn, with the default, which is for clean data; what publishing adds is shown beside it."
    )
    columns = ["protocol", "ours", "fits", "clock", "processor", "bar", ""]
    return Table(f"Time to fit, over {_TIMED}'s", note, columns, rows)


def _by_seed(records: Iterable[Record]) -> list[list[Record]]:
    ordered = sorted(records, key=lambda record: record.seed)
    return [list(group) for _, group in groupby(ordered, lambda record: record.seed)]


def _machines(records: Iterable[Record]) -> Iterator[str]:
    def machine(record: Record) -> str:
        versions = ", ".join(" ".join(item) for item in record.versions.items())
        threads = f"{record.threads} thread{'s' * (record.threads > 1)}"
        return f"{record.processor}, {threads}; {versions}; commit {record.commit}"

    for where, group in groupby(sorted(records, key=machine), machine):
        of = list(group)
        methods = ", ".join(_methods(of))
        yield f"- {methods}: {len(of)} records, {min(r.run for r in of):%Y-%m-%d}: {where}"


def _paired(ours: Iterable[Record], theirs: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Of the same protocol, set and seed, by set."""
    others = {record.key: record for record in theirs}
    return sorted(
        ((record, others[record.key]) for record in ours if record.key in others), key=lambda pair: pair[0].key
    )


def _difference(pair: tuple[Record, Record]) -> float:
    return 100 * (pair[0].auroc - pair[1].auroc)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, nan of a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def _methods(records: Iterable[Record]) -> list[str]:
    there = {record.method for record in records}
    return [method for method in (*OURS, *PEERS) if method in there]


def _names(records: Iterable[Record]) -> list[str]:
    return sorted({record.set for record in records}, key=str.lower)


def _verdict(reached: bool) -> str:
    return REACHED if reached else MISSED


def _points(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f}" if values else ""


def _spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.stdev(values):.1f}" if len(values) > 1 else "?"


def _range(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} – {max(values):.2f})"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}, {_percent(part / whole, 0)}"
