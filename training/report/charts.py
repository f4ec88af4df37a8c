"""Charts as SVG whose colours are the page's: one chart suits light and dark.

A plotting library would take a second to import and a tenth for each of a report's dozen charts, and its SVG knows one
background; these take milliseconds. Everything returns Markup for a Figure; `alt` says what the chart shows in one
sentence. Numbers that are not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from training.report.axis import Axis, number
from training.report.canvas import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    LINE,
    LOGARITHMIC,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Mark,
    Text,
    bar,
    dots,
    draw_axes,
    frame,
    line,
    point_out,
    short,
)

_SMALL = 240, 126
COLOURS = 10  # classes s0 to s9 of page.css
_MOST_POINTS = 300  # of a line: more than it has pixels to show
_BINS, _FEW_BINS = 44, 26  # of one kind of rows; of several over one another
_LEVELS = 12


@dataclass(frozen=True)
class Series:
    """A line, or a group of dots. css: its colour, 's0' to 's9', after 'line' or 'thin' for lines."""

    name: str
    css: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Sample:
    """Values of one kind of rows, [n]. weights: how many rows each stands for, [n]; one where there are none."""

    name: str
    css: str
    values: np.ndarray
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Block:
    """Rows of one heat map that belong together. values: [lanes, columns] in -1 to 1; damaged: bool, the same shape."""

    title: str
    lanes: Sequence[str]
    values: np.ndarray
    damaged: np.ndarray | None = None
    css: str = "label"


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    alt: str,
    marked: tuple[float, str] | None = None,
    small: bool = False,
    key: bool = True,
) -> Markup:
    """Lines over a common x; NaN breaks a line. marked: an x to point out, and what it is."""
    chart = Chart(alt, *(_SMALL if small else (WIDTH, HEIGHT)))
    all_x, all_y = np.concatenate([one.x for one in series]), np.concatenate([one.y for one in series])
    x, y = frame(chart, all_x, all_y, x_label, y_label, log=not small, pad=0.05 * small)
    for one in series:
        chart.marks.append(Mark(one.css, line(*_thinned(x.place(one.x), y.place(one.y))), one.name))
    if marked:
        point_out(chart, x, y, *marked)
    chart.key = [(one.css.split()[-1], one.name) for one in series] if key and len(series) > 1 else []
    return chart.svg()


def scatter(groups: Sequence[Series], x_label: str, y_label: str, alt: str) -> Markup:
    """Dots, the last group on top. A few far ones are drawn on the frame's edge, lest all others shrink to a dot."""
    chart = Chart(alt, WIDTH, 1.35 * HEIGHT)
    x, y = frame(
        chart,
        _middle(np.concatenate([group.x for group in groups])),
        _middle(np.concatenate([group.y for group in groups])),
        x_label,
        y_label,
        log=False,
        pad=0.03,
    )
    for group in groups:
        at_x, at_y = (axis.place(v.clip(axis.low, axis.high)) for axis, v in ((x, group.x), (y, group.y)))
        chart.marks.append(Mark(f"dots {group.css}", dots(at_x, at_y)))
    chart.key = [(group.css, f"{group.name} ({len(group.x):,})") for group in groups] if len(groups) > 1 else []
    return chart.svg()


def histogram(values: np.ndarray, x_label: str, alt: str, marked: tuple[float, str]) -> Markup:
    """How often which value comes, [n]; bars beyond the marked value are warm."""
    chart = Chart(alt)
    x, edges = _binned(chart, np.append(values, marked[0]), x_label, _BINS)
    counts, _ = np.histogram(values, edges)
    y = Axis.over("rows", np.append(counts, 0), chart.height - BOTTOM, TOP)
    draw_axes(chart, x, y)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            title = f"{number(left)} to {number(right)}: {count:,} rows"
            css = "area s1" if left >= marked[0] else "area s0"
            chart.marks.append(bar(css, x.at(left), x.at(right) - 0.8, y.at(0), y.at(count), title))
    point_out(chart, x, y, *marked)
    return chart.svg()


def histograms(samples: Sequence[Sample], x_label: str, alt: str, marked: Sequence[tuple[float, str]]) -> Markup:
    """What share of each kind's rows has which value, as outlines over one another. marked: values to point out."""
    more = LINE * (len(marked) - 1)
    chart = Chart(alt, height=HEIGHT + more)
    shown = np.concatenate([*(sample.values for sample in samples), [value for value, _ in marked]])
    x, edges = _binned(chart, shown, x_label, _FEW_BINS)
    shares = [np.histogram(one.values, edges, weights=one.weights)[0].astype(np.float64) for one in samples]
    shares = [share / share.sum() for share in shares]
    y = Axis.over("% of its rows", 100 * np.append(np.concatenate(shares), 0), chart.height - BOTTOM, TOP + more)
    draw_axes(chart, x, y)
    for sample, share in zip(samples, shares, strict=True):
        steps = "".join(f"V{y.at(100 * height)}H{x.at(right)}" for height, right in zip(share, edges[1:], strict=True))
        path = f"M{x.at(edges[0])} {y.at(0)}{steps}V{y.at(0)}"
        chart.marks.append(Mark(f"soft {sample.css}", f"{path}z"))
        chart.marks.append(Mark(f"line {sample.css}", path, sample.name))
    for lines_above, (value, text) in enumerate(marked):
        point_out(chart, x, y, value, text, lines_above)
    chart.key = [(one.css, one.name) for one in samples] if len(samples) > 1 else []
    return chart.svg()


def bars(values: np.ndarray, names: Sequence[str], x_label: str, y_label: str, alt: str) -> Markup:
    """Upright bars side by side, [n]; their names are seen under the pointer."""
    chart = Chart(alt)
    x = Axis.over(x_label, np.array([0.0, len(values)]), LEFT, chart.width - RIGHT)
    y = Axis.over(y_label, np.append(values, 0.0), chart.height - BOTTOM, TOP)
    draw_axes(chart, x, y, x_ticks=False)
    gap = 0.5 if len(values) > 60 else 2.0
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        left, right, title = x.at(index), x.at(index + 1) - gap, f"{name}: {number(value)}"
        chart.marks.append(bar("area s0", left, right, y.at(0), y.at(value), title))
    return chart.svg()


def named_bars(values: np.ndarray, names: Sequence[str], x_label: str, alt: str) -> Markup:
    """Lying bars with their names before them, [n]; from the first downwards."""
    left, height = 16 + min(160.0, LETTER * max(map(len, names))), 17
    chart = Chart(alt, height=TOP + height * len(values) + BOTTOM)
    bottom = chart.height - BOTTOM
    x = Axis.over(x_label, np.append(values, 0.0), left, chart.width - RIGHT)
    for tick, text in x.ticks(4):
        chart.marks.append(Mark("grid", f"M{x.at(tick)} {TOP}V{bottom}"))
        chart.texts.append(Text(x.at(tick), bottom + 16, text, "middle"))
    chart.texts.append(Text((left + chart.width) / 2, chart.height - 6, x_label, "middle"))
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        top = TOP + height * index
        chart.marks.append(bar("area s0", left, x.at(value), top + 2, top + height - 2, f"{name}: {number(value)}"))
        chart.texts.append(Text(left - 8, top + 12.5, short(name, left - 16), "end", "label", title=name))
    return chart.svg()


def heat(blocks: Sequence[Block], columns: Sequence[str], alt: str) -> Markup:
    """Numbers as warmth: 1 is full warm, -1 full cool, 0 nothing. Lanes of one block touch; names stand below."""
    left, lane, gap = 172, 15, 9
    names = 10 + min(110.0, LETTER * 0.75 * max(map(len, columns)))
    chart = Chart(alt, width=2 * WIDTH)
    size = min(60.0, (chart.width - left - 60) / len(columns))
    cells: dict[int, list[str]] = {}
    crosses: list[str] = []
    top = float(TOP)
    for block in blocks:
        chart.texts.append(Text(0, top + 11, block.title, css=block.css))
        for index, name in enumerate(block.lanes):
            chart.texts.append(Text(left - 8, top + 11, name, "end"))
            for column, value in enumerate(block.values[index]):
                if level := round(float(np.clip(value, -1, 1)) * _LEVELS):
                    at = f"M{left + column * size:.1f} {top:.1f}h{size - 1:.1f}v{lane - 1}h{1 - size:.1f}z"
                    cells.setdefault(level, []).append(at)
                if block.damaged is not None and block.damaged[index, column]:
                    crosses.append(f"M{left + (column + 0.5) * size - 2.5:.1f} {top + lane / 2 - 3:.1f}l5 5m0 -5l-5 5")
            top += lane
        chart.marks.append(Mark("grid", f"M{left} {top:.1f}H{left + len(columns) * size:.1f}"))
        top += gap
    for level, paths in cells.items():
        css = "warmth" if level > 0 else "coolth"
        chart.marks.append(Mark(css, "".join(paths), opacity=round(abs(level) / _LEVELS, 2)))
    chart.marks.append(Mark("damage", "".join(crosses)))
    for column, name in enumerate(columns):
        x = round(left + (column + 0.5) * size, 1)
        chart.texts.append(Text(x, top + 8, short(name, 110 / 0.75), "start", turn=45, title=name))
    chart.height = top + names
    return chart.svg()


def silhouette(sizes: Sequence[int], neck: int, alt: str) -> Markup:
    """The model as an hourglass: each layer a bar as high as the logarithm of its numbers. neck: its index."""
    chart = Chart(alt, width=360, height=150)
    step = (chart.width - 40) / (len(sizes) - 1)
    half = [4 + 52 * math.log1p(size) / math.log1p(max(sizes)) for size in sizes]
    at = [20 + index * step for index in range(len(sizes))]
    middle = 62
    upper = [f"{x:.1f} {middle - h:.1f}" for x, h in zip(at, half, strict=True)]
    lower = [f"{x:.1f} {middle + h:.1f}" for x, h in zip(at, half, strict=True)]
    chart.marks.append(Mark("soft s0", f"M{'L'.join([*upper, *reversed(lower)])}z"))
    for index, (x, h, size) in enumerate(zip(at, half, sizes, strict=True)):
        css = "area s1" if index == neck else "area s0"
        chart.marks.append(bar(css, x - 4, x + 4, middle - h, middle + h, f"{size:,} numbers"))
        if len(sizes) <= 9 or index in (0, neck, len(sizes) - 1):
            chart.texts.append(Text(round(x, 1), 138, f"{size:,}", "middle", "warn" if index == neck else ""))
    return chart.svg()


def _binned(chart: Chart, shown: np.ndarray, x_label: str, bins: int) -> tuple[Axis, np.ndarray]:
    """The axis of a histogram, and the edges of its bins: [bins + 1]."""
    log = bool((shown > 0).all() and shown.max() > LOGARITHMIC * np.median(shown))
    x = Axis.over(x_label, shown, LEFT, chart.width - RIGHT, log, pad=0.02)
    return x, np.geomspace(x.low, x.high, bins + 1) if log else np.linspace(x.low, x.high, bins + 1)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= _MOST_POINTS:
        return x, y
    kept = np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int)
    return x[kept], y[kept]


def _middle(values: np.ndarray) -> np.ndarray:
    """Without the few that lie far outside."""
    low, high = np.quantile(values, (0.005, 0.995))
    room = 0.4 * (high - low)
    kept: np.ndarray = values[(values >= low - room) & (values <= high + room)]
    return kept
