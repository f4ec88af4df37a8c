"""What a person sees on stderr: a bar with loss and time left on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from training.run import Run
from training.trainer import EpochRecord

_LINE_SECONDS = 10.0


class Progress:
    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, table: Table) -> None:
        self._console.print(table)

    def warn(self, message: str) -> None:
        self.say(f"warning: {message}")

    @contextmanager
    def training(self, run: Run) -> Iterator[Callable[[EpochRecord], None]]:
        """Gives the function to call after each epoch."""
        self.say(f"run {run.folder}")
        shown = self._on_terminal(run) if self._console.is_terminal else self._in_lines(run)
        with shown as show:
            yield show

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            self.say(what)
            yield

    @contextmanager
    def share(self, what: str) -> Iterator[Callable[[float], None]]:
        """Gives the function to call with the share that is done, as often as one likes; gone when it is done."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        terminal = self._console.is_terminal
        with Bar(*columns, console=self._console, transient=True, disable=not terminal) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda done: bar.update(task, completed=done)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Gives the function to call with what has been done since its last call."""
        if not self._console.is_terminal:
            self.say(what)
            yield lambda done: None
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)

    @contextmanager
    def _on_terminal(self, run: Run) -> Iterator[Callable[[EpochRecord], None]]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs · loss {task.fields[loss]} · {task.fields[speed]} rows/s · left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self._console) as bar:
            task = bar.add_task(run.config.name, total=run.config.epochs, loss="–", speed="–")

            def show(record: EpochRecord) -> None:
                loss, speed = f"{record.early_stop_loss:.4g}", f"{record.rows_per_second:,.0f}"
                bar.update(task, completed=record.epoch, loss=loss, speed=speed)

            yield show

    @contextmanager
    def _in_lines(self, run: Run) -> Iterator[Callable[[EpochRecord], None]]:
        printed = time.monotonic()
        last: EpochRecord | None = None

        def show(record: EpochRecord) -> None:
            nonlocal printed, last
            last = record
            if time.monotonic() - printed >= _LINE_SECONDS:
                printed, last = time.monotonic(), None
                self.say(_line(record, run.config.epochs))

        yield show
        if last:
            self.say(_line(last, run.config.epochs))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _line(record: EpochRecord, epochs: int | None) -> str:
    return (
        f"epoch {record.epoch}/{epochs} · early-stop loss {record.early_stop_loss:.4g} · "
        f"{record.rows_per_second:,.0f} rows/s"
    )
