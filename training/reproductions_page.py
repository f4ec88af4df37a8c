"""docs/reproductions.md: what papers say and what was measured here, made of the records alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from training import record
from training.record import Record
from training.reproduction import Claim, Range, Reproduction, registered

_HEAD = """# Reproductions

What the papers report and what this code gives, on the same data. Every number below was measured by
`hourglass-train reproduce`, which writes this page; each seed's record lies in [{folder}]({folder}). Networks are the
papers'; 50,000 images of MNIST train, 10,000 choose everything, the test set is read once a seed. "±" is the standard
deviation over seeds. Sources are marked **A** (read in a primary source), **B** (in an independent text that quotes
the paper) or **C** (from memory, to verify).

| result | paper | expected here | measured | |
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
            if (claim.expected or claim.goal) and records:
                budget = records[0].budget
                yield (
                    f"| [{reproduction.title}](#{_anchor(reproduction.title)}): {claim.meaning} ({budget}) "
                    f"| {_published(claim)} | {_expected(claim)} | {_measured(claim, records)} "
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
    minutes = [r.minutes for r in records]
    kind = "Recipe" if _is_current(reproduction, last) else "Another recipe that was tried"
    settings = ", ".join(f"{key} {_shown(value)}" for key, value in last.recipe.items())
    yield f"**{kind}** ({last.budget}, `{last.fingerprint}`): {settings}."
    yield ""
    yield "| number | paper | source | expected | measured | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for claim in reproduction.claims:
        if any(claim.metric in r.results for r in records):
            source = f"{claim.source} ({claim.confidence})" if claim.source else ""
            yield (
                f"| {claim.meaning} | {_published(claim)} | {source} | {_expected(claim)} "
                f"| {_measured(claim, records)} | {_verdict(claim, records)} |"
            )
    yield ""
    seeds = ", ".join(str(r.seed) for r in records)
    yield (
        f"{statistics.mean(minutes):.1f} minutes a seed (seed{'s' * (len(records) > 1)} {seeds}) on {last.machine}; "
        f"{last.finished:%Y-%m-%d}."
    )
    yield ""


def _recipe(record: Record) -> tuple[str, str]:
    return record.budget, record.fingerprint


def _is_current(reproduction: type[Reproduction], record: Record) -> bool:
    return dict(reproduction.recipes.get(record.budget, {})) == record.recipe


def _current(reproduction: type[Reproduction], records: Iterable[Record]) -> list[Record]:
    """Of the recipe that stands now; of the larger budget where both have been run."""
    current = [r for r in records if _is_current(reproduction, r)]
    largest = [r for r in current if r.budget == "gpu"]
    return largest or current


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
    return "; ".join(words)


def _within(value: float, bounds: Range) -> bool:
    return bounds[0] <= value <= bounds[1]


def _published(claim: Claim) -> str:
    return "" if claim.published is None else f"{claim.published:g}"


def _expected(claim: Claim) -> str:
    return _shown_range(claim.expected) if claim.expected else ""


def _shown_range(bounds: Range) -> str:
    low, high = bounds
    if low == float("-inf"):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if high == float("inf") else f"{low:g} to {high:g}"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
