"""What people see: tables on stdout, a bar on stderr."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

WIDTH = 100


def console(stderr: bool = False) -> Console:
    # Neither markup nor highlighting: what is shown comes from files and servers.
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


@contextmanager
def progress(share: Callable[[int], float]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr: share that is done, rows, rows/s, time left; nothing where nobody watches. Takes new rows."""
    screen = console(stderr=True)
    speed = TextColumn("{task.fields[rows]:,} rows  {task.fields[speed]:,.0f} rows/s")
    columns = (BarColumn(), TaskProgressColumn(), speed, TimeRemainingColumn())
    start, done = time.monotonic(), 0
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=1.0, rows=0, speed=0.0)

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            bar.update(task, completed=share(done), rows=done, speed=done / max(time.monotonic() - start, 1e-9))

        yield advance
