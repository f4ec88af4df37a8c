"""docs/reproductions.md: what papers say and what was measured here, made of the records alone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from training import record
from training.record import Record
from training.reproduction import Claim, Range, Reproduction, registered

_HEAD = """# Reproductions

What others report, and what `hourglass-train reproduce` measured here; it also writes this page, from the records in
[{folder}]({folder}), one a seed. Where network or data differ from the paper's, the result's section says so. Of
MNIST, 50,000 images train, 10,000 choose (the first half of them the epochs), and the 10,000 test images are for the
last line of a run. "±" is the standard deviation over seeds. References are marked **A** (read in a primary source),
**B** (in an independent text that quotes it), **C** (from memory, to verify) or **D** (derived from such).

| result | reference | expected here | measured | |
| --- | --- | --- | --- | --- |
"""


def write(page: Path, folder: Path) -> None:
    """folder: of the records."""
    parts = [_HEAD.format(folder=folder.name), *_summary(folder), ""]
    for name, reproduction in registered().items():
        if records := record.read(folder, name):
            parts += _section(reproduction, records)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts).replace("| --- |\n\n|", "| --- |\n|") + "\n", encoding="utf-8")


def _summary(folder: Path) -> Iterable[str]:
    for name, reproduction in registered().items():
        records = _current(reproduction, record.read(folder, name))
        for claim in reproduction.claims:
            if (claim.expected or claim.goal or claim.gain) and records:
                budget = records[0].budget
                yield (
                    f"| [{reproduction.title}](#{_anchor(reproduction.title)}): {claim.meaning} ({budget}) "
                    f"| {_reference(claim)} | {_expected(claim)} | {_measured(claim, records)} "
                    f"| {_verdict(claim, records)} |"
                )


def _section(reproduction: type[Reproduction], records: Sequence[Record]) -> Iterable[str]:
    yield f"## {reproduction.title}"
    yield f"{reproduction.paper}. {reproduction.remarks}"
    yield ""
    by_recipe = [list(group) for _, group in groupby(sorted(records, key=_recipe), key=_recipe)]
    for group in sorted(by_recipe, key=lambda group: not _is_current(reproduction, group[0])):
        yield from _recipe_table(reproduction, group)


def _recipe_table(reproduction: type[Reproduction], records: Sequence[Record]) -> Iterable[str]:
    last = records[-1]
    kind = "Recipe" if _is_current(reproduction, last) else "Another recipe that was tried"
    yield "| number | reference | source | expected | measured | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for claim in reproduction.claims:
        if _values(claim, records):
            source = f"{claim.source} ({claim.confidence})" if claim.source else ""
            yield (
                f"| {claim.meaning} | {_reference(claim)} | {source} | {_expected(claim)} "
                f"| {_measured(claim, records)} | {_verdict(claim, records)} |"
            )
    yield ""
    yield f"<details><summary>{kind} ({last.budget}, {last.fingerprint})</summary>"
    yield ""
    yield "```"
    yield from (f"{key} = {json.dumps(value)}" for key, value in last.recipe.items())
    yield "```"
    yield ""
    yield "</details>"
    yield ""
    for machine in sorted({str(r.machine) for r in records}):
        yield _cost(machine, [r for r in records if str(r.machine) == machine])
    yield ""


def _cost(machine: str, records: Sequence[Record]) -> str:
    seeds = ", ".join(str(r.seed) for r in records)
    minutes = f"{statistics.mean(r.minutes for r in records):.0f} minutes each by the clock, other programs beside it"
    if processor := [r.processor_minutes for r in records if r.processor_minutes is not None]:
        minutes += f", {statistics.mean(processor):.0f} of the processor"
    return f"Seed{'s' * (len(records) > 1)} {seeds}: {minutes}, on {machine}; {records[-1].finished:%Y-%m-%d}."


def _recipe(record: Record) -> tuple[str, str]:
    return record.budget, record.fingerprint


def _is_current(reproduction: type[Reproduction], record: Record) -> bool:
    return dict(reproduction.recipes.get(record.budget, {})) == record.recipe


def _current(reproduction: type[Reproduction], records: Iterable[Record]) -> list[Record]:
    """Of the recipe that stands now; of the larger budget where both have been run."""
    current = [r for r in records if _is_current(reproduction, r)]
    return [r for r in current if r.budget == "gpu"] or current


def _values(claim: Claim, records: Iterable[Record]) -> list[float]:
    return [r.results[claim.metric] for r in records if claim.metric in r.results]


def _measured(claim: Claim, records: Iterable[Record]) -> str:
    values = _values(claim, records)
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"**{statistics.mean(values):.4g}**{spread} ({len(values)} seed{'s' * (len(values) > 1)})"


def _verdict(claim: Claim, records: Iterable[Record]) -> str:
    values = _values(claim, records)
    if not values:
        return ""
    mean = statistics.mean(values)
    words = []
    if claim.expected:
        words.append("reached" if _within(mean, claim.expected) else "**not reached**")
    if claim.goal:
        words.append(f"goal {_shown_range(claim.goal)}{'' if _within(mean, claim.goal) else ' not'} reached")
    if claim.gain:
        words.append(_gain(mean, values))
    return "; ".join(words)


def _gain(mean: float, values: Sequence[float]) -> str:
    if len(values) == 1:
        return "one seed cannot say"
    errors = mean / (statistics.stdev(values) / math.sqrt(len(values)) or math.inf)
    clear = "more than 2" if errors > 2 else "**not more than 2**"
    return f"{clear} standard errors ({errors:.1f})"


def _within(value: float, bounds: Range) -> bool:
    return bounds[0] <= value <= bounds[1]


def _reference(claim: Claim) -> str:
    return "" if claim.reference is None else f"{claim.reference:g}"


def _expected(claim: Claim) -> str:
    return _shown_range(claim.expected) if claim.expected else ""


def _shown_range(bounds: Range) -> str:
    low, high = bounds
    if low == float("-inf"):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if high == float("inf") else f"{low:g} to {high:g}"


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
