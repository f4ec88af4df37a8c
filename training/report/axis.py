"""From numbers to pixels, and round numbers to write along an axis."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
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
    ) -> Axis:
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
