"""The tables of docs/performance.md, between its marks, from benchmarks/results.json; the words are the page's own."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_SIGNIFICANT = 3


def write(results: Path, page: Path) -> None:
    """Each part between `<!-- NAME -->` and `<!-- /NAME -->`: machine, bars and numbers of what was measured last."""
    measured = json.loads(results.read_text())
    text = page.read_text()
    for part, record in measured.items():
        for name, lines in (("machine", _machine(record)), ("bars", _bars(record)), ("numbers", _numbers(record))):
            text = _between(text, f"{part}-{name}", lines)
        if record["configurations"]:
            text = _between(text, f"{part}-configurations", _configurations(record))
    page.write_text(text)


def _between(text: str, name: str, lines: Iterator[str]) -> str:
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"the page has no place for {name}")
    content = "\n".join(lines)
    return marks.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def _machine(record: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield (
        f"Measured on {record['date']}, commit {record['commit']}: {record['machine']}, {record['cores']} cores, which "
        f"server, echo and load generator share; Python {record['python']}, {versions}; load generator in "
        f"{record['generator']}."
    )


def _bars(record: Mapping[str, Any]) -> Iterator[str]:
    yield "| | measured, median (spread) | bar | |\n| --- | --- | --- | --- |"
    for case in record["cases"]:
        for ratio in case["ratios"]:
            if ratio["bar"] is None:
                continue
            what = ratio["title"] if ratio["over"] == "1" else f"{ratio['title']}: {ratio['of']} over {ratio['over']}"
            what = f"{what}: {ratio['of']}" if ratio["over"] == "1" else what
            spread = f"{_number(min(ratio['values']))} – {_number(max(ratio['values']))}"
            bar = f"{'≤' if ratio['at_most'] else '≥'} {ratio['bar']:g}"
            said = "reached" if ratio["met"] else "**not reached**"
            yield f"| {what} | {_number(ratio['median'])} ({spread}) | {bar} | {said} |"


def _numbers(record: Mapping[str, Any]) -> Iterator[str]:
    yield "| | unit | median | spread |\n| --- | --- | --- | --- |"
    for case in record["cases"]:
        yield f"| **{case['title']}** | {case['unit']} | | |"
        for name, values in case["values"].items():
            spread = "" if len(values) == 1 else f"{_number(min(values))} – {_number(max(values))}"
            yield f"| {name} | | {_number(statistics.median(values))} | {spread} |"
        for ratio in case["ratios"]:
            if ratio["bar"] is None:
                spread = f"{_number(min(ratio['values']))} – {_number(max(ratio['values']))}"
                yield f"| {ratio['of']} over {ratio['over']} | ratio | {_number(ratio['median'])} | {spread} |"


def _configurations(record: Mapping[str, Any]) -> Iterator[str]:
    yield "| | installed | configuration |\n| --- | --- | --- |"
    for name, peer in record["configurations"].items():
        yield f"| {name} | {_cell(peer['requirements'])} | {_cell([peer['configuration']])} |"


def _cell(lines: Sequence[str]) -> str:
    return ", ".join(" ".join(line.split()) for line in lines).replace("|", "\\|")


def _number(value: float) -> str:
    """Three significant digits, and all before the point."""
    digits = max(0, _SIGNIFICANT - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"
