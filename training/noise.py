"""Corruptions of rows in scaled units, each independent per feature (Vincent et al. 2010, section 3.3), or the user's.

rows: float32 [n, *row_shape] -> Damaged; all chance comes from `generator`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from training import chance, parallel
from training.errors import ConfigError, nearest

Corruption = Callable[[Tensor, Generator], Tensor]


class Damaged(NamedTuple):
    """rows: the damaged copy. where: bool, broadcasts to rows: the features that were chosen to be damaged, whether or
    not that changed them."""

    rows: Tensor
    where: Tensor


def masking(rows: Tensor, share: float, generator: Generator, columns: Tensor | None = None, count: int = 0) -> Damaged:
    """Each feature becomes 0 with probability `share`: a table's mean, an image's darkest value.

    columns: which of `count` columns each number is from, int [numbers], where several belong together: all of them
    become 0, or none.
    """
    if columns is None:
        kept = chance.uniform(rows.shape, generator) >= share
    else:
        # Counted beforehand: to ask a tensor on a GPU is to wait for it.
        kept = (chance.uniform((*rows.shape[:-1], count), generator) >= share).index_select(-1, columns)
    return Damaged(rows * kept, ~kept)


def gaussian(rows: Tensor, stddev: float, generator: Generator) -> Damaged:
    """Adds N(0, stddev^2) to every feature."""
    everywhere = torch.ones((), dtype=torch.bool, device=rows.device)
    return Damaged(rows + stddev * chance.normal(rows.shape, generator), everywhere)


def salt_and_pepper(rows: Tensor, share: float, low: Tensor, high: Tensor, generator: Generator) -> Damaged:
    """Each feature becomes `low` or `high`, with probability share / 2 each; both broadcast to a row."""
    drawn = chance.uniform(rows.shape, generator)
    where = drawn < share
    return Damaged(torch.where(where, torch.where(drawn < share / 2, low, high), rows), where)


def imported(name: str) -> Corruption:
    """The function that `name`, 'module:function', names: of an installed module or one in the current folder.

    It takes a batch of rows (float32 [n, *row_shape], scaled units: images in [0, 1], a table's columns standardised)
    and a torch.Generator on the same device, its only source of chance, and returns the damaged rows: same shape, dtype
    and device. It must be importable wherever the run is continued or exported. Importing runs the module's code.
    Raises ConfigError.
    """
    module_name, _, function_name = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Whatever the user's module raises while it is imported.
        raise ConfigError(f"noise {name!r}: cannot import {module_name}: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"noise {name!r}: {module_name} has no function {function_name}{nearest(function_name, known)}"
        )
    found: Corruption = function
    return found


def by_user(rows: Tensor, corruption: Corruption, name: str, generator: Generator) -> Damaged:
    """What `corruption` makes of the rows; damaged is what it changed. Raises ConfigError naming it."""
    rows = parallel.whole(rows)  # what it draws for some of them nobody knows
    try:
        damaged = corruption(rows.clone(), generator)
    except Exception as error:
        raise ConfigError(f"noise {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(damaged, Tensor) or damaged.shape != rows.shape or damaged.dtype != rows.dtype:
        what = f"{damaged.dtype} {list(damaged.shape)}" if isinstance(damaged, Tensor) else type(damaged).__name__
        raise ConfigError(f"noise {name!r} returned {what} for rows of {rows.dtype} {list(rows.shape)}")
    if not damaged.isfinite().all():
        raise ConfigError(f"noise {name!r} returned NaN or infinity: mark a lost feature by a number, such as 0")
    return Damaged(parallel.own(damaged), parallel.own(damaged != rows))
