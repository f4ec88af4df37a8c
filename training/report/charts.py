"""Charts as SVG whose colours are the page's: one chart suits light and dark.

A plotting library would take a second to import and a tenth for each of a report's dozen charts, and its SVG knows one
background; these take milliseconds. Everything returns Markup for a Figure; `alt` says what the chart shows in one
sentence. Numbers that are not finite are left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from training.report.page import rendered

WIDTH, HEIGHT = 520, 290
_SMALL = 240, 126
COLOURS = 10  # classes s0 to s9 of page.css
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 40
_MOST_POINTS = 300  # of a line: more than it has pixels to show
_BINS, _FEW_BINS = 44, 26  # of one kind of rows; of several over one another
_LOGARITHMIC = 10.0  # an axis that spans more than this factor
_LINE = 14  # of text, in pixels
_LETTER = 6.2  # mean width of one, in pixels
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


@dataclass(frozen=True)
class _Mark:
    css: str
    path: str
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    anchor: str = "start"
    css: str = ""
    turn: int = 0
    title: str = ""


@dataclass
class _Chart:
    alt: str
    width: float = WIDTH
    height: float = HEIGHT
    marks: list[_Mark] = field(default_factory=list)
    texts: list[_Text] = field(default_factory=list)
    key: list[tuple[str, str]] = field(default_factory=list)

    def svg(self) -> Markup:
        return rendered("chart.svg.jinja", chart=self)


@dataclass(frozen=True)
class _Axis:
    """From data to pixels."""

    label: str
    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # nothing lies between 1 and 2

    @classmethod
    def over(
        cls, label: str, values: np.ndarray, start: float, end: float, log: bool = False, pad: float = 0.0
    ) -> _Axis:
        """Shows all finite values, with a share `pad` of the range beyond them at either end."""
        finite = values[np.isfinite(values)].astype(np.float64)
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        whole = bool((finite == finite.round()).all())
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            half = 0.5 * abs(low) or 0.5
            low, high = low - half, high + half
        if log:
            room = (high / low) ** pad
            return cls(label, low / room, high * room, start, end, log=True)
        room = pad * (high - low)
        return cls(label, low - room, high + room, start, end, whole=whole)

    def place(self, values: np.ndarray) -> np.ndarray:
        low, high, at = np.array(self.low), np.array(self.high), values
        if self.log:
            low, high, at = np.log(low), np.log(high), np.log(at)
        placed: np.ndarray = self.start + (at - low) / (high - low) * (self.end - self.start)
        return placed

    def at(self, value: float) -> float:
        return round(float(self.place(np.array(value))), 1)

    def ticks(self, wanted: int) -> list[tuple[float, str]]:
        """At most about `wanted` round numbers and how they are written."""
        if self.log:
            values = _log_ticks(self.low, self.high, wanted)
        else:
            values = _ticks(self.low, self.high, wanted, least=1.0 if self.whole else 0.0)
        return [(value, number(value)) for value in values]


def _ticks(low: float, high: float, wanted: int, least: float) -> list[float]:
    rough = max(least, (high - low) / wanted, sys.float_info.min)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for sizes in ((1, 2, 5), (1,)):
        values = [size * 10.0**decade for decade in decades for size in sizes]
        shown = [value for value in values if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
        if len(shown) <= wanted:
            return shown
    return shown[:: math.ceil(len(shown) / wanted)]


def number(value: float) -> str:
    """As an axis or a caption shows it."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


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
    chart = _Chart(alt, *(_SMALL if small else (WIDTH, HEIGHT)))
    all_x, all_y = np.concatenate([one.x for one in series]), np.concatenate([one.y for one in series])
    x, y = _frame(chart, all_x, all_y, x_label, y_label, log=not small, pad=0.05 * small)
    for one in series:
        chart.marks.append(_Mark(one.css, _line(*_thinned(x.place(one.x), y.place(one.y))), one.name))
    if marked:
        _point_out(chart, x, y, *marked)
    chart.key = [(one.css.split()[-1], one.name) for one in series] if key and len(series) > 1 else []
    return chart.svg()


def scatter(groups: Sequence[Series], x_label: str, y_label: str, alt: str) -> Markup:
    """Dots, the last group on top. A few far ones are drawn on the frame's edge, lest all others shrink to a dot."""
    chart = _Chart(alt, WIDTH, 1.35 * HEIGHT)
    x, y = _frame(
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
        chart.marks.append(_Mark(f"dots {group.css}", _dots(at_x, at_y)))
    chart.key = [(group.css, f"{group.name} ({len(group.x):,})") for group in groups] if len(groups) > 1 else []
    return chart.svg()


def histogram(values: np.ndarray, x_label: str, alt: str, marked: tuple[float, str]) -> Markup:
    """How often which value comes, [n]; bars beyond the marked value are warm."""
    chart = _Chart(alt)
    x, edges = _binned(chart, np.append(values, marked[0]), x_label, _BINS)
    counts, _ = np.histogram(values, edges)
    y = _Axis.over("rows", np.append(counts, 0), chart.height - _BOTTOM, _TOP)
    _draw_axes(chart, x, y)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            title = f"{number(left)} to {number(right)}: {count:,} rows"
            css = "area s1" if left >= marked[0] else "area s0"
            chart.marks.append(_bar(css, x.at(left), x.at(right) - 0.8, y.at(0), y.at(count), title))
    _point_out(chart, x, y, *marked)
    return chart.svg()


def histograms(samples: Sequence[Sample], x_label: str, alt: str, marked: Sequence[tuple[float, str]]) -> Markup:
    """What share of each kind's rows has which value, as outlines over one another. marked: values to point out."""
    more = _LINE * (len(marked) - 1)
    chart = _Chart(alt, height=HEIGHT + more)
    shown = np.concatenate([*(sample.values for sample in samples), [value for value, _ in marked]])
    x, edges = _binned(chart, shown, x_label, _FEW_BINS)
    shares = [np.histogram(one.values, edges, weights=one.weights)[0].astype(np.float64) for one in samples]
    shares = [share / share.sum() for share in shares]
    y = _Axis.over("% of its rows", 100 * np.append(np.concatenate(shares), 0), chart.height - _BOTTOM, _TOP + more)
    _draw_axes(chart, x, y)
    for sample, share in zip(samples, shares, strict=True):
        steps = "".join(f"V{y.at(100 * height)}H{x.at(right)}" for height, right in zip(share, edges[1:], strict=True))
        path = f"M{x.at(edges[0])} {y.at(0)}{steps}V{y.at(0)}"
        chart.marks.append(_Mark(f"soft {sample.css}", f"{path}z"))
        chart.marks.append(_Mark(f"line {sample.css}", path, sample.name))
    for line, (value, text) in enumerate(marked):
        _point_out(chart, x, y, value, text, line)
    chart.key = [(one.css, one.name) for one in samples] if len(samples) > 1 else []
    return chart.svg()


def bars(values: np.ndarray, names: Sequence[str], x_label: str, y_label: str, alt: str) -> Markup:
    """Upright bars side by side, [n]; their names are seen under the pointer."""
    chart = _Chart(alt)
    x = _Axis.over(x_label, np.array([0.0, len(values)]), _LEFT, chart.width - _RIGHT)
    y = _Axis.over(y_label, np.append(values, 0.0), chart.height - _BOTTOM, _TOP)
    _draw_axes(chart, x, y, x_ticks=False)
    gap = 0.5 if len(values) > 60 else 2.0
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        left, right, title = x.at(index), x.at(index + 1) - gap, f"{name}: {number(value)}"
        chart.marks.append(_bar("area s0", left, right, y.at(0), y.at(value), title))
    return chart.svg()


def named_bars(values: np.ndarray, names: Sequence[str], x_label: str, alt: str) -> Markup:
    """Lying bars with their names before them, [n]; from the first downwards."""
    left, line = 16 + min(160.0, _LETTER * max(map(len, names))), 17
    chart = _Chart(alt, height=_TOP + line * len(values) + _BOTTOM)
    bottom = chart.height - _BOTTOM
    x = _Axis.over(x_label, np.append(values, 0.0), left, chart.width - _RIGHT)
    for tick, text in x.ticks(4):
        chart.marks.append(_Mark("grid", f"M{x.at(tick)} {_TOP}V{bottom}"))
        chart.texts.append(_Text(x.at(tick), bottom + 16, text, "middle"))
    chart.texts.append(_Text((left + chart.width) / 2, chart.height - 6, x_label, "middle"))
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        top = _TOP + line * index
        chart.marks.append(_bar("area s0", left, x.at(value), top + 2, top + line - 2, f"{name}: {number(value)}"))
        chart.texts.append(_Text(left - 8, top + 12.5, _short(name, left - 16), "end", "label", title=name))
    return chart.svg()


def heat(blocks: Sequence[Block], columns: Sequence[str], alt: str) -> Markup:
    """Numbers as warmth: 1 is full warm, -1 full cool, 0 nothing. Lanes of one block touch; names stand below."""
    left, lane, gap = 172, 15, 9
    names = 10 + min(110.0, _LETTER * 0.75 * max(map(len, columns)))
    chart = _Chart(alt, width=2 * WIDTH)
    size = min(60.0, (chart.width - left - 60) / len(columns))
    cells: dict[int, list[str]] = {}
    crosses: list[str] = []
    top = float(_TOP)
    for block in blocks:
        chart.texts.append(_Text(0, top + 11, block.title, css=block.css))
        for index, name in enumerate(block.lanes):
            chart.texts.append(_Text(left - 8, top + 11, name, "end"))
            for column, value in enumerate(block.values[index]):
                if level := round(float(np.clip(value, -1, 1)) * _LEVELS):
                    at = f"M{left + column * size:.1f} {top:.1f}h{size - 1:.1f}v{lane - 1}h{1 - size:.1f}z"
                    cells.setdefault(level, []).append(at)
                if block.damaged is not None and block.damaged[index, column]:
                    crosses.append(f"M{left + (column + 0.5) * size - 2.5:.1f} {top + lane / 2 - 3:.1f}l5 5m0 -5l-5 5")
            top += lane
        chart.marks.append(_Mark("grid", f"M{left} {top:.1f}H{left + len(columns) * size:.1f}"))
        top += gap
    for level, paths in cells.items():
        css = "warmth" if level > 0 else "coolth"
        chart.marks.append(_Mark(css, "".join(paths), opacity=round(abs(level) / _LEVELS, 2)))
    chart.marks.append(_Mark("damage", "".join(crosses)))
    for column, name in enumerate(columns):
        x = round(left + (column + 0.5) * size, 1)
        chart.texts.append(_Text(x, top + 8, _short(name, 110 / 0.75), "start", turn=45, title=name))
    chart.height = top + names
    return chart.svg()


def silhouette(sizes: Sequence[int], neck: int, alt: str) -> Markup:
    """The model as an hourglass: each layer a bar as high as the logarithm of its numbers. neck: its index."""
    chart = _Chart(alt, width=360, height=150)
    step = (chart.width - 40) / (len(sizes) - 1)
    half = [4 + 52 * math.log1p(size) / math.log1p(max(sizes)) for size in sizes]
    at = [20 + index * step for index in range(len(sizes))]
    middle = 62
    upper = [f"{x:.1f} {middle - h:.1f}" for x, h in zip(at, half, strict=True)]
    lower = [f"{x:.1f} {middle + h:.1f}" for x, h in zip(at, half, strict=True)]
    chart.marks.append(_Mark("soft s0", f"M{'L'.join([*upper, *reversed(lower)])}z"))
    for index, (x, h, size) in enumerate(zip(at, half, sizes, strict=True)):
        css = "area s1" if index == neck else "area s0"
        chart.marks.append(_bar(css, x - 4, x + 4, middle - h, middle + h, f"{size:,} numbers"))
        if len(sizes) <= 9 or index in (0, neck, len(sizes) - 1):
            chart.texts.append(_Text(round(x, 1), 138, f"{size:,}", "middle", "warn" if index == neck else ""))
    return chart.svg()


def _frame(
    chart: _Chart,
    x_values: np.ndarray,
    y_values: np.ndarray,
    x_label: str,
    y_label: str,
    log: bool = True,
    pad: float = 0.0,
) -> tuple[_Axis, _Axis]:
    """Axes drawn around what will be shown. log: where the values suggest it."""
    finite = y_values[np.isfinite(y_values)]
    log = log and len(finite) > 0 and bool(0 < _LOGARITHMIC * finite.min() < finite.max())
    x = _Axis.over(x_label, x_values, _LEFT, chart.width - _RIGHT, pad=pad)
    bottom = chart.height - (_BOTTOM if x_label else _TOP)
    y = _Axis.over(y_label, y_values, bottom, _TOP, log, pad)
    _draw_axes(chart, x, y)
    return x, y


def _binned(chart: _Chart, shown: np.ndarray, x_label: str, bins: int) -> tuple[_Axis, np.ndarray]:
    """The axis of a histogram, and the edges of its bins: [bins + 1]."""
    log = bool((shown > 0).all() and shown.max() > _LOGARITHMIC * np.median(shown))
    x = _Axis.over(x_label, shown, _LEFT, chart.width - _RIGHT, log, pad=0.02)
    return x, np.geomspace(x.low, x.high, bins + 1) if log else np.linspace(x.low, x.high, bins + 1)


def _draw_axes(chart: _Chart, x: _Axis, y: _Axis, x_ticks: bool = True) -> None:
    for tick, text in y.ticks(max(4, int(chart.height / 45))):
        at = y.at(tick)
        chart.marks.append(_Mark("grid", f"M{x.start} {at}H{x.end}"))
        chart.texts.append(_Text(x.start - 7, at + 4, text, "end"))
    for tick, text in x.ticks(int(chart.width / 80)) if x.label and x_ticks else ():
        at = x.at(tick)
        chart.marks.append(_Mark("axis", f"M{at} {y.start}v4"))
        chart.texts.append(_Text(at, y.start + 16, text, "middle"))
    chart.texts.append(_Text((x.start + x.end) / 2, chart.height - 6, x.label, "middle"))
    chart.marks.append(_Mark("axis", f"M{x.start} {y.start}H{x.end}"))
    chart.texts.append(_Text(0, 8, y.label))


def _point_out(chart: _Chart, x: _Axis, y: _Axis, value: float, text: str, line: int = 0) -> None:
    """line: how many lines of text above the axis, where no other's rule passes."""
    at = x.at(value)
    chart.marks.append(_Mark("rule", f"M{at} {y.start}V{y.end}"))
    anchor = "start" if at < (x.start + x.end) / 2 else "end"
    chart.texts.append(_Text(at, y.end - 5 - _LINE * line, text, anchor, "label"))


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(f"M{p:.1f} {q:.1f}h0" for p, q in zip(x, y, strict=True))


def _line(x: np.ndarray, y: np.ndarray) -> str:
    parts, pen = [], "M"
    for p, q in zip(x, y, strict=True):
        if math.isfinite(q):
            # A lone point is a dot: its line has no length, but round ends.
            parts.append(f"{pen}{p:.1f} {q:.1f}{'h0' if pen == 'M' else ''}")
        pen = "L" if math.isfinite(q) else "M"
    return "".join(parts)


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


def _bar(css: str, left: float, right: float, bottom: float, top: float, title: str) -> _Mark:
    return _Mark(css, f"M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}z", title)


def _short(name: str, pixels: float) -> str:
    letters = int(pixels / _LETTER)
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
