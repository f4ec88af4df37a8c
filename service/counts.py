"""Counters and histograms of the event loop: plain numbers that only it writes, read when somebody scrapes.

prometheus_client's own look their labels up and take a lock each time, 1.2 to 1.5 µs where these take 0.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Counter(Collector):
    """name: without `_total`."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._about = name, text, labels
        self._series: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *labels: str) -> Count:
        return self._series.setdefault(labels, Count())

    def forget(self, *first: str) -> None:
        """Every series whose labels begin so."""
        _forget(self._series, first)

    def describe(self) -> Iterable[Metric]:
        return (self._family(),)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, count in list(self._series.items()):
            family.add_metric(labels, count.value)
        yield family

    def _family(self) -> CounterMetricFamily:
        name, text, labels = self._about
        return CounterMetricFamily(name, text, labels=labels)


class Histogram(Collector):
    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """bounds: upper ends of the buckets, ascending; one without end comes behind them."""
        self._about = name, text, labels
        self._bounds = bounds
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *labels: str) -> Distribution:
        return self._series.setdefault(labels, Distribution(self._bounds))

    def forget(self, *first: str) -> None:
        """Every series whose labels begin so."""
        _forget(self._series, first)

    def describe(self) -> Iterable[Metric]:
        return (self._family(),)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, series in list(self._series.items()):
            total, buckets = 0, []
            for name, count in zip(self._names, tuple(series.counts), strict=True):
                total += count
                buckets.append((name, total))
            family.add_metric(labels, buckets=buckets, sum_value=series.sum)
        yield family

    def _family(self) -> HistogramMetricFamily:
        name, text, labels = self._about
        return HistogramMetricFamily(name, text, labels=labels)


def _forget(series: dict[tuple[str, ...], Any], first: tuple[str, ...]) -> None:
    for labels in [labels for labels in series if labels[: len(first)] == first]:
        del series[labels]
