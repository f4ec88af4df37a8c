"""What one part of an evaluation found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

Numbers = Mapping[str, "float | str | Numbers | None"]


@dataclass(frozen=True)
class Section:
    """numbers: all that was found, by name, None where there is no number; tables and sentences: for people."""

    name: str
    numbers: Numbers
    tables: tuple[Table, ...]
    sentences: tuple[str, ...]

    def show(self, console: Console) -> None:
        console.print(self.name.capitalize(), style="bold")
        for shown_table in self.tables:
            console.print(shown_table)
        for sentence in self.sentences:
            console.print(sentence)
        console.print()


def table(first: str, *others: str) -> Table:
    """Words in the first column, numbers in the others."""
    made = Table(first)
    for header in others:
        made.add_column(header, justify="right")
    return made


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
