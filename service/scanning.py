"""What is in the folder of models, by listing and stat alone: no file is opened, whatever its size.

Nothing else tells of changes on every kind of volume (NFS, a ConfigMap, a bucket that is mounted).
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hourglass.contract import layout

# Of a version's folder: each entry's name, size, time of change and mode. No inode: some network file systems make
# them up anew.
Signature = tuple[tuple[str, int, int, int], ...]

# Meant as versions, and none: 0, 007, -1.
_NUMBER = re.compile(r"[+-]?[0-9]{1,32}")


class Version(NamedTuple):
    model: str
    number: int


@dataclass(frozen=True)
class Found:
    """Of one model. numbers: all its versions, newest first. signatures: of those that may have to be loaded.
    no_versions: names of entries that look like one."""

    numbers: tuple[int, ...]
    signatures: dict[int, Signature]
    no_versions: tuple[str, ...]


def scan(root: Path, newest: int | None, refused: Container[Version]) -> dict[str, Found | None]:
    """By name, each model that has a version. None: there is one, and its folder cannot be read.

    Of each, signatures are taken of the newest versions until there are `newest` that were not refused. Raises OSError
    when the root cannot be read.
    """
    found: dict[str, Found | None] = {}
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if layout.is_name(entry.name))
    for name in names:
        try:
            one = _model(root, name, newest, refused)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            found[name] = None
            continue
        if one.numbers or one.no_versions:
            found[name] = one
    return found


def _model(root: Path, name: str, newest: int | None, refused: Container[Version]) -> Found:
    with os.scandir(root / name) as entries:
        names = [entry.name for entry in entries]
    numbers = sorted((int(entry) for entry in names if layout.is_version(entry)), reverse=True)
    signatures: dict[int, Signature] = {}
    good = 0
    for number in numbers:
        if good == newest:
            break
        signatures[number] = signature(root, name, number)
        good += Version(name, number) not in refused
    odd = sorted(entry for entry in names if _NUMBER.fullmatch(entry) and not layout.is_version(entry))
    return Found(tuple(numbers), signatures, tuple(odd))


def signature(root: Path, name: str, number: int) -> Signature:
    """Of a folder that cannot be read another one; loading it tells why."""
    try:
        with os.scandir(f"{root}/{name}/{number}") as entries:
            return tuple(sorted(map(_entry, entries)))
    except OSError as error:
        return (("", 0, 0, -(error.errno or 0)),)


def _entry(entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        status = entry.stat()
    except OSError as error:  # a link to nowhere
        return entry.name, 0, 0, -(error.errno or 0)
    return entry.name, status.st_size, status.st_mtime_ns, status.st_mode
