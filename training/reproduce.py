"""hourglass-train reproduce: run the seeds that have no result yet, keep each as it ends, and write the page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from training import devices, record, reproductions_page
from training.errors import ConfigError, TrainingError
from training.progress import Progress
from training.record import Machine, Record
from training.reproduction import Bench, Budget, Reproduction, find, fingerprint, registered

ALL = "all"


@dataclass(frozen=True)
class Settings:
    """data: a folder with mnist/, None when none was named; results: of the records, beside which the page lies; runs,
    exported: as fit's.
    """

    budget: Budget
    seeds: int
    data: Path | None
    results: Path
    runs: Path
    exported: Path

    @property
    def page(self) -> Path:
        return self.results.with_name(f"{self.results.name}.md")


def reproduce(name: str, settings: Settings, progress: Progress) -> Path:
    """Returns the page. Raises TrainingError."""
    if name == ALL:
        chosen: Sequence[type[Reproduction]] = [r for r in registered().values() if settings.budget in r.recipes]
    else:
        chosen = [find(name)]
        chosen[0].recipe(settings.budget)
    if settings.seeds < 1:
        raise ConfigError(f"--seeds {settings.seeds}: at least 1")
    # Seed by seed: what is there after an hour says something of every result.
    for seed in range(settings.seeds):
        for reproduction in chosen:
            _run(reproduction, seed, settings, progress)
            reproductions_page.write(settings.page, settings.results)
    return settings.page


def _run(reproduction: type[Reproduction], seed: int, settings: Settings, progress: Progress) -> None:
    recipe = reproduction.recipe(settings.budget)
    if record.path(settings.results, reproduction.name, settings.budget, recipe, seed).exists():
        progress.say(f"{reproduction.name}, seed {seed}: there is a result")
        return
    progress.say(f"{reproduction.name}, seed {seed}: {reproduction.title}")
    # A CPU recipe's results are the processor's, wherever they are got again.
    device = devices.chosen("cpu" if settings.budget == "cpu" else "auto")
    folder = settings.runs / "reproductions" / reproduction.name / f"{settings.budget}-{fingerprint(recipe)}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        reproduction.name.replace("_", "-"),
        recipe,
        seed,
        data=settings.data,
        folder=folder,
        exported=settings.exported,
        pictures=settings.results / reproduction.name,
        progress=progress,
        device=device,
    )
    results, stopwatch = _timed(lambda: reproduction().run(bench), folder / "seconds.json")
    if wrong := [metric for metric, value in results.items() if not math.isfinite(value)]:
        raise TrainingError(f"{reproduction.name}, seed {seed}: {', '.join(wrong)} is no number: nothing is recorded")
    done = Record(
        reproduction=reproduction.name,
        budget=settings.budget,
        recipe=dict(recipe),
        seed=seed,
        data_sha256=bench.data_sha256,
        results=results,
        minutes=round(stopwatch.wall / 60, 2),
        processor_minutes=round(stopwatch.processor / 60, 2),
        machine=Machine.this(device),
        finished=datetime.now(UTC).replace(microsecond=0),
    )
    record.write(settings.results, done)


class _Stopwatch(BaseModel):
    """Seconds."""

    wall: float = 0.0
    processor: float = 0.0


def _timed(run: Callable[[], dict[str, float]], file: Path) -> tuple[dict[str, float], _Stopwatch]:
    """What `run` gives, and its time: that before an interruption, kept in `file`, is added."""
    earlier = _Stopwatch.model_validate_json(file.read_bytes()) if file.exists() else _Stopwatch()
    wall, processor = time.monotonic(), time.process_time()
    try:
        results = run()
    finally:
        total = _Stopwatch(
            wall=earlier.wall + time.monotonic() - wall, processor=earlier.processor + time.process_time() - processor
        )
        draft = file.with_suffix(".draft")
        draft.write_text(total.model_dump_json(), encoding="utf-8")
        draft.replace(file)
    return results, total
