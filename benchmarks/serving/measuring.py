"""Contenders take turns; what is compared is the ratio within each turn, and its median over the turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=100)
Contender = Callable[[int], float]  # number of the turn -> what was measured


@dataclass(frozen=True)
class Ratio:
    """of over over, in each turn; bar: the least it may be, or with at_most the most, None where there is none."""

    title: str
    of: str
    over: str
    values: tuple[float, ...]
    bar: float | None = None
    at_most: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.median <= self.bar if self.at_most else self.median >= self.bar


@dataclass(frozen=True)
class Case:
    """values: of each contender, turn by turn."""

    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    ratios: tuple[Ratio, ...] = ()

    def record(self) -> dict[str, Any]:
        ratios = [{**asdict(ratio), "median": ratio.median, "met": ratio.met} for ratio in self.ratios]
        return {"title": self.title, "unit": self.unit, "values": dict(self.values), "ratios": ratios}


def turns(title: str, unit: str, contenders: Mapping[str, Contender], count: int) -> Case:
    """Each contender once a turn, in an order that is turned round from turn to turn."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(count):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            values[name].append(contenders[name](turn))
    return Case(title, unit, values)


def ratio(case: Case, of: str, over: str, bar: float | None = None, *, at_most: bool = False, title: str = "") -> Ratio:
    pairs = zip(case.values[of], case.values[over], strict=True)
    return Ratio(title or case.title, of, over, tuple(a / b for a, b in pairs), bar, at_most)


def show(case: Case) -> None:
    table = Table(title=case.title, title_justify="left")
    for column in ("", case.unit, "spread"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in case.values.items():
        table.add_row(name, f"{statistics.median(values):,.5g}", f"{min(values):,.5g} – {max(values):,.5g}")
    console.print(table)
    for one in case.ratios:
        said = {None: "", True: "  met", False: "  MISSED"}[one.met]
        bar = "" if one.bar is None else f", bar {'≤' if one.at_most else '≥'} {one.bar:g}{said}"
        spread = f"{min(one.values):.2f} – {max(one.values):.2f}"
        console.print(f"  {one.of} / {one.over}: {one.median:.2f} ({spread}){bar}")
