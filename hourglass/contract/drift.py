"""Whether traffic still is what the model was calibrated on: a sketch of the calibration rows, compared with counts.

Of each feature the sketch keeps some edges and the share of calibration rows at or below each. Traffic is counted
against the same edges, and two distributions are as far apart as their shares at the edge where they differ most.
Nobody keeps rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hourglass.contract.array import Array
from hourglass.contract.schema import UNKNOWN, Schema

if TYPE_CHECKING:
    from hourglass.contract.manifest import Window

# Of a wider row so many evenly spaced numbers stand for all.
MOST_FEATURES = 1024
FEATURES_OF_WIDER_ROWS = 256
# How often traffic that does not drift may be called drifting, however many features there are.
FALSE_ALARM_RATE = 0.01

# Between quantiles; fewer where there are many features, so that to count them costs little. Fewer comparisons also
# make the limit tighter: a shifted mean is seen as soon.
_BINS, _BINS_OF_MANY, _MANY = 10, 5, 256
# By what two runtimes' scores may differ, relative to their size: equal scores must not come to lie on both sides of an
# edge. Export proves it.
_ROUNDING = 1e-4
_INFINITY = np.float32(np.inf)
_TINY = np.finfo(np.float32).tiny  # anything smaller is 0 to some runtimes
# Rows that are counted at once: their number fits in a byte.
_BLOCK = 255


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __eq__(self, other: object) -> bool:
        # pydantic's own would compare cached arrays as if they were single values
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]


class Distribution(_Strict):
    """Distribution functions of k features at e edges each.

    edges: float32 [e, k], ascending; +inf from where there are no more, and always at the end: what is not at or below
    it is missing. shares: float32 [e, k], the share of all values, missing ones included, at or below each.
    """

    edges: Array
    shares: Array

    @model_validator(mode="after")
    def _check(self) -> Distribution:
        edges, shares = self.edges.unpack(), self.shares.unpack()
        if edges.shape != shares.shape or edges.ndim != 2 or not edges.size:
            raise ValueError("edges and shares: not both of the same shape, [edges, features]")
        if np.isnan(edges).any() or (edges[1:] < edges[:-1]).any() or not np.isposinf(edges[-1]).all():
            raise ValueError("edges: not ascending to infinity")
        if not ((shares >= 0) & (shares <= 1)).all() or (shares[1:] < shares[:-1]).any():
            raise ValueError("shares: not ascending within 0 and 1")
        return self

    @classmethod
    def of(cls, values: np.ndarray, *, categorical: tuple[int, ...] = (), rounding: float = 0.0) -> Distribution:
        """values: float32 [n, k], NaN where missing. categorical: columns of codes, of which 0 is an edge. rounding: by
        what a value may differ, relative to its size, and still be the same."""
        bins = _BINS if values.shape[1] <= _MANY else _BINS_OF_MANY
        edges = np.stack(
            [_edges(values[:, i], bins, i in categorical, rounding) for i in range(values.shape[1])], axis=1
        )
        shares = _count(edges, values) / len(values)
        return cls(edges=Array.pack(edges), shares=Array.pack(shares))

    @cached_property
    def at(self) -> np.ndarray:
        """The edges, unpacked."""
        return self.edges.unpack()

    @cached_property
    def before(self) -> np.ndarray:
        """The shares, unpacked: float64."""
        return self.shares.unpack().astype(np.float64)

    @property
    def features(self) -> int:
        return self.edges.shape[1]

    @cached_property
    def comparisons(self) -> int:
        """How many different edges there are."""
        return self.features + int((self.at[1:] > self.at[:-1]).sum())

    def count(self, values: np.ndarray) -> np.ndarray:
        """How many values are at or below each edge. values: float32 [n, k] -> int64 [e, k]."""
        return _count(self.at, values)

    def ks(self, shares: np.ndarray) -> np.ndarray:
        """Kolmogorov and Smirnov's distance, the largest difference of two distribution functions, at the edges; a
        missing value lies beyond every number. shares: float [e, k], of others -> float64 [k] in [0, 1]."""
        distances: np.ndarray = np.abs(shares - self.before).max(axis=0)
        return distances

    def psi(self, shares: np.ndarray, rows: int) -> np.ndarray:
        """The population stability index, sum of (p - q) ln(p / q) over the bins between edges, the missing being one
        more; >= 0. shares: float [e, k], of `rows` others -> float64 [k].

        Half a row of the others is added to every bin of both, so that an empty one is finite. Without drift it is
        about (bins - 1) (1 / rows + 1 / calibration rows) (Yurdakul 2018, "Statistical properties of population
        stability index"); practice calls 0.1 a moderate and 0.25 a large change.
        """
        p, q = (_bins(at_edges, 0.5 / max(rows, 1)) for at_edges in (shares, self.before))
        indices: np.ndarray = ((p - q) * np.log(p / q)).sum(axis=0)
        return indices


@dataclass
class Counts:
    """What was counted of some rows; counts of others are added in place.

    values: of each feature, 1 a row, or 1 a timestamp. below: int [e, k], as Distribution.count.
    """

    rows: int
    values: int
    below: np.ndarray

    def __iadd__(self, other: Counts) -> Counts:
        self.rows += other.rows
        self.values += other.values
        self.below += other.below
        return self


@dataclass
class ScoreCounts:
    """What was counted of those rows that were scored; counts of others are added in place.

    below: int [e, 1], as Distribution.count. p_values: their sum. clipped: how many numbers the model clipped.
    """

    rows: int
    below: np.ndarray
    p_values: float
    clipped: float

    def __iadd__(self, other: ScoreCounts) -> ScoreCounts:
        self.rows += other.rows
        self.below += other.below
        self.p_values += other.p_values
        self.clipped += other.clipped
        return self


@dataclass(frozen=True)
class Drift:
    """How far rows are from the calibration rows.

    ks, psi, missing, missing_before: float64 [features], as Distribution.ks and .psi, and shares of missing cells;
    unknown, unknown_before: shares of categories that the model does not know, NaN for features that are no categories.
    limit: no ks of rows like the calibration rows is beyond it, but for one such comparison of all in a hundred.
    Of the score, NaN when no row was scored: score_ks, score_psi, score_limit, the mean of the p-values, which is 0.5
    without drift, and the share of numbers that were clipped, with that of the calibration rows.
    """

    rows: int
    limit: float
    ks: np.ndarray
    psi: np.ndarray
    missing: np.ndarray
    missing_before: np.ndarray
    unknown: np.ndarray
    unknown_before: np.ndarray
    scored: int
    score_limit: float
    score_ks: float
    score_psi: float
    mean_p_value: float
    clipped: float
    clipped_before: float

    @property
    def drifted(self) -> np.ndarray:
        """bool [features]"""
        beyond: np.ndarray = self.ks > self.limit
        return beyond

    @property
    def score_drifted(self) -> bool:
        return self.score_ks > self.score_limit

    @property
    def missing_ratio(self) -> float:
        """Share of all cells; NaN when there are none."""
        return float(self.missing.mean()) if self.rows else math.nan

    @property
    def unknown_ratio(self) -> float:
        """Share of the cells of categorical features; NaN when there are none."""
        categorical = ~np.isnan(self.unknown)
        return float(self.unknown[categorical].mean()) if self.rows and categorical.any() else math.nan

    def __bool__(self) -> bool:
        return self.score_drifted or bool(self.drifted.any())

    def worst(self, most: int) -> list[int]:
        """Features, the one that is farthest off first."""
        order: list[int] = np.lexsort((-self.psi, -self.ks))[:most].tolist()
        return order


class Sketch(_Strict):
    """What calibration rows look like. A feature is one number of a row, row-major, and of windows one channel, the
    values of all its timestamps taken together; of more than 1,024 it is each of 256 evenly spaced ones.

    rows: of calibration. overlap: how many windows in a row share timestamps; 1 for other rows. size: numbers of a row,
    or channels of a window. categorical: features that are codes of categories. score: of one feature. clipped: share
    of the rows' numbers that the model clipped.
    """

    rows: Annotated[int, Field(ge=1, le=2**53)]
    overlap: Annotated[int, Field(ge=1)] = 1
    size: Annotated[int, Field(ge=1)]
    categorical: tuple[Annotated[int, Field(ge=0)], ...] = ()
    features: Distribution
    score: Distribution
    clipped: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _check(self) -> Sketch:
        if self.features.features != len(self.positions) or self.score.features != 1:
            raise ValueError("features, score: not of the row's size, and of one feature")
        if any(feature >= len(self.positions) for feature in self.categorical):
            raise ValueError("categorical: no such feature")
        return self

    @classmethod
    def of(
        cls,
        rows: np.ndarray,
        scores: np.ndarray,
        clipped: np.ndarray,
        *,
        schema: Schema | None = None,
        window: Window | None = None,
    ) -> Sketch:
        """Of calibration rows, float32 [n, *row_shape], with their scores and numbers of clipped values, [n] each."""
        size = rows.shape[-1] if window else math.prod(rows.shape[1:])
        positions = _positions(size)
        codes = schema.categorical if schema else ()
        categorical = tuple(i for i, position in enumerate(positions.tolist()) if position in codes)
        return cls(
            rows=len(rows),
            overlap=math.ceil(window.length / window.stride) if window else 1,
            size=size,
            categorical=categorical,
            features=Distribution.of(rows.reshape(-1, size)[:, positions], categorical=categorical),
            score=Distribution.of(scores.reshape(-1, 1).astype(np.float32), rounding=_ROUNDING),
            clipped=float(clipped.mean(dtype=np.float64) / math.prod(rows.shape[1:])),
        )

    @cached_property
    def positions(self) -> np.ndarray:
        """int [features]: where each feature stands in a row, row-major, or among a window's channels."""
        return _positions(self.size)

    def names(self, columns: Sequence[str], row_shape: Sequence[int]) -> list[str]:
        """Of each feature: its column or channel, or where it stands: "3,5" is row 3, column 5 of an image. columns:
        empty where they have no names."""
        if columns:
            return [columns[position] for position in self.positions.tolist()]
        shape = row_shape if math.prod(row_shape) == self.size else [self.size]
        return [",".join(map(str, index)) for index in zip(*np.unravel_index(self.positions, shape), strict=True)]

    def limit(self, rows: float) -> float:
        """What the distance of so many rows exceeds in at most one case of a hundred, if they are drawn independently
        from what the calibration rows are from.

        A share at one edge is a mean of n numbers in [0, 1], so by Hoeffding (1963, "Probability inequalities for sums
        of bounded random variables", 2.6) two of them differ by t or more with probability at most
        2 exp(-2 t² / (1 / n + 1 / m)), for any n and m, with ties and with windows of dependent timestamps. Over all
        different edges of all features and the score such probabilities add up to 0.01 at most. (That an edge is itself
        a calibration value moves its share by less than 1 / n.)
        """
        comparisons = self.features.comparisons + self.score.comparisons
        variance = self.overlap / self.rows + (1 / rows if rows else math.inf)
        return math.sqrt(math.log(2 * comparisons / FALSE_ALARM_RATE) * variance / 2)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The features of rows, float32 [n, *row_shape] -> [n, features], and of windows [n * length, features]."""
        values = rows.reshape(-1, self.size)
        return values if len(self.positions) == self.size else values[:, self.positions]

    def count(self, rows: np.ndarray) -> Counts:
        """rows: float32 [n, *row_shape], NaN where missing."""
        values = self.values(rows)
        return Counts(len(rows), len(values), self.features.count(values))

    def count_scores(self, scores: np.ndarray, p_values: np.ndarray, clipped: np.ndarray) -> ScoreCounts:
        """scores, p_values, numbers that were clipped: [n] each, of rows that were scored."""
        below = self.score.count(scores.reshape(-1, 1))
        return ScoreCounts(
            len(scores), below, float(p_values.sum(dtype=np.float64)), float(clipped.sum(dtype=np.float64))
        )

    def compare(self, counts: Counts, scored: ScoreCounts, traffic: int) -> Drift:
        """traffic: how many rows the counted ones were drawn from: of windows that overlap, those that were left out
        make the others more independent."""
        shares = counts.below / max(counts.values, 1)
        score_shares = scored.below / max(scored.rows, 1)
        before = self.features.before
        unknown, unknown_before = (np.full(self.features.features, np.nan) for _ in range(2))
        codes = list(self.categorical)
        unknown[codes], unknown_before[codes] = shares[0, codes], before[0, codes]
        numbers = scored.rows * self.size * (counts.values / max(counts.rows, 1))
        has_scores = scored.rows > 0
        return Drift(
            rows=counts.rows,
            limit=self._limit(counts.rows, traffic),
            ks=self.features.ks(shares),
            psi=self.features.psi(shares, counts.rows),
            missing=1 - shares[-1],
            missing_before=1 - before[-1],
            unknown=unknown,
            unknown_before=unknown_before,
            scored=scored.rows,
            score_limit=self._limit(scored.rows, traffic),
            score_ks=float(self.score.ks(score_shares)[0]) if has_scores else math.nan,
            score_psi=float(self.score.psi(score_shares, scored.rows)[0]) if has_scores else math.nan,
            mean_p_value=scored.p_values / scored.rows if has_scores else math.nan,
            clipped=scored.clipped / numbers if has_scores else math.nan,
            clipped_before=self.clipped,
        )

    def _limit(self, counted: int, traffic: int) -> float:
        return self.limit(min(counted, traffic / self.overlap))


def _positions(size: int) -> np.ndarray:
    features = size if size <= MOST_FEATURES else FEATURES_OF_WIDER_ROWS
    return np.linspace(0, size - 1, features).round().astype(np.int64)


def _edges(values: np.ndarray, bins: int, categorical: bool, rounding: float) -> np.ndarray:
    """float32 [bins]: the quantiles of values that are there, once each, then +inf."""
    present = values[~np.isnan(values)]
    edges = np.full(bins, np.inf, dtype=np.float32)
    if not len(present):
        return edges
    quantiles = np.quantile(present, np.arange(1, bins) / bins, method="inverted_cdf")
    finite = np.unique(quantiles + rounding * np.abs(quantiles))
    lowest = present.min() - rounding * np.abs(present.min())
    if categorical:
        finite = np.unique([UNKNOWN, *finite])
    elif quantiles[0] == present.min():
        # Many values are equal to the smallest one: below them there were none, and are none as long as nothing drifts.
        finite = np.array([min(np.nextafter(lowest, -_INFINITY), lowest - _TINY), *finite])
    finite = finite[: bins - 1]
    edges[: len(finite)] = finite
    return edges


def _count(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """edges: float32 [e, k], values: float32 [n, k] -> int64 [e, k]: how many values are at or below each edge."""
    counts = np.zeros(edges.shape, dtype=np.int64)
    for start in range(0, len(values), _BLOCK):
        below = values[None, start : start + _BLOCK] <= edges[:, None]
        counts += np.add.reduce(below.view(np.uint8), axis=1, dtype=np.uint8)  # much faster than a sum of bools
    return counts


def _bins(shares: np.ndarray, added: float) -> np.ndarray:
    """Shares at edges, [e, k] -> shares between edges, [e + 1, k], each with so much added, of sum 1."""
    bins = np.empty((len(shares) + 1, shares.shape[1]))
    bins[0], bins[-1] = shares[0], 1 - shares[-1]
    np.subtract(shares[1:], shares[:-1], out=bins[1:-1])
    return (bins + added) / (1 + len(bins) * added)
