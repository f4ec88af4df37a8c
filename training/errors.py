"""What a user of hourglass-train can get wrong, as one tree: the program prints the message and exits 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrainingError(Exception):
    """The message says what is wrong, where, and what to do about it, in one line."""


class ConfigError(TrainingError):
    """A setting is unknown, malformed or does not fit another one."""


class DataError(TrainingError):
    """The rows cannot be trained on."""


class RunError(TrainingError):
    """A folder is not a run, its checkpoint is unreadable, or it does not belong to these data."""


class ExportError(TrainingError):
    """The exported graphs are not what the trained model is; nothing was published."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' with the known name closest to `name`, or ' (known: …)' when none is close."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f" (known: {shown})" if shown else ""
