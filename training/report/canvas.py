"""What charts are drawn on: marks and texts in pixels, axes around them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from training.report.axis import Axis
from training.report.page import rendered

WIDTH, HEIGHT = 520, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 40
LOGARITHMIC = 10.0  # an axis that spans more than this factor
LINE = 14  # of text, in pixels
LETTER = 6.2  # mean width of one, in pixels


@dataclass(frozen=True)
class Mark:
    css: str
    path: str
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: str = "start"
    css: str = ""
    turn: int = 0
    title: str = ""


@dataclass
class Chart:
    alt: str
    width: float = WIDTH
    height: float = HEIGHT
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    key: list[tuple[str, str]] = field(default_factory=list)

    def svg(self) -> Markup:
        return rendered("chart.svg.jinja", chart=self)


def frame(
    chart: Chart,
    x_values: np.ndarray,
    y_values: np.ndarray,
    x_label: str,
    y_label: str,
    log: bool = True,
    pad: float = 0.0,
) -> tuple[Axis, Axis]:
    """Axes drawn around what will be shown. log: where the values suggest it."""
    finite = y_values[np.isfinite(y_values)]
    log = log and len(finite) > 0 and bool(0 < LOGARITHMIC * finite.min() < finite.max())
    x = Axis.over(x_label, x_values, LEFT, chart.width - RIGHT, pad=pad)
    bottom = chart.height - (BOTTOM if x_label else TOP)
    y = Axis.over(y_label, y_values, bottom, TOP, log, pad)
    draw_axes(chart, x, y)
    return x, y


def draw_axes(chart: Chart, x: Axis, y: Axis, x_ticks: bool = True) -> None:
    for tick, text in y.ticks(max(4, int(chart.height / 45))):
        at = y.at(tick)
        chart.marks.append(Mark("grid", f"M{x.start} {at}H{x.end}"))
        chart.texts.append(Text(x.start - 7, at + 4, text, "end"))
    for tick, text in x.ticks(int(chart.width / 80)) if x.label and x_ticks else ():
        at = x.at(tick)
        chart.marks.append(Mark("axis", f"M{at} {y.start}v4"))
        chart.texts.append(Text(at, y.start + 16, text, "middle"))
    chart.texts.append(Text((x.start + x.end) / 2, chart.height - 6, x.label, "middle"))
    chart.marks.append(Mark("axis", f"M{x.start} {y.start}H{x.end}"))
    chart.texts.append(Text(0, 8, y.label))


def point_out(chart: Chart, x: Axis, y: Axis, value: float, text: str, line: int = 0) -> None:
    """line: how many lines of text above the axis, where no other's rule passes."""
    at = x.at(value)
    chart.marks.append(Mark("rule", f"M{at} {y.start}V{y.end}"))
    anchor = "start" if at < (x.start + x.end) / 2 else "end"
    chart.texts.append(Text(at, y.end - 5 - LINE * line, text, anchor, "label"))


def dots(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(f"M{p:.1f} {q:.1f}h0" for p, q in zip(x, y, strict=True))


def line(x: np.ndarray, y: np.ndarray) -> str:
    parts, pen = [], "M"
    for p, q in zip(x, y, strict=True):
        if math.isfinite(q):
            # A lone point is a dot: its line has no length, but round ends.
            parts.append(f"{pen}{p:.1f} {q:.1f}{'h0' if pen == 'M' else ''}")
        pen = "L" if math.isfinite(q) else "M"
    return "".join(parts)


def bar(css: str, left: float, right: float, bottom: float, top: float, title: str) -> Mark:
    return Mark(css, f"M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}z", title)


def short(name: str, pixels: float) -> str:
    letters = int(pixels / LETTER)
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
