"""How much of a damage the model undoes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator

from training import noise
from training.evaluation.published import Published
from training.evaluation.section import Numbers, Section, shown, table
from training.evaluation.subject import SEED, Sample, Subject
from training.variants.denoising import NOISES

LEVELS = (0.1, 0.25, 0.5)
_MASKING = "masking"


class _Damage(NamedTuple):
    """damaged: the rows, in input units, a cell that is lost being a mean or the commonest category. given: what the
    model gets of them, float32 [n, *row_shape]. lost: the cells that it is asked for, bool, broadcasts to it."""

    damaged: np.ndarray
    given: np.ndarray
    lost: np.ndarray


def measure(subject: Subject) -> Section:
    """On the sample."""
    model, sample = subject.model, subject.sample
    rows, schema = sample.data.rows, model.manifest.row_schema
    numeric = schema is None or schema.is_numeric
    numbers: dict[str, Numbers] = {}
    shown_numbers = table("noise", "level", "damaged", "denoised", "gain in dB")
    shown_wrong = table("wrong categories", "level", "damaged", "denoised")
    for kind in NOISES if numeric else (_MASKING,):
        levels: dict[str, Numbers] = {}
        for level in LEVELS:
            damage = _masked(model, rows, level) if kind == _MASKING else _noisy(model, sample, kind, level)
            denoised = np.where(damage.lost, model.reconstruct(damage.given), damage.damaged)
            before, after = (model.errors(rows, found) for found in (damage.damaged, denoised))
            found: dict[str, float | None] = {}
            if before.mean_squared is not None and after.mean_squared is not None:
                gain = _gain(before.mean_squared, after.mean_squared)
                found = {"damaged_mse": before.mean_squared, "denoised_mse": after.mean_squared, "gain_db": gain}
                sign = f"{gain:+.2f}" if gain is not None else "–"
                mse = (shown(before.mean_squared), shown(after.mean_squared))
                shown_numbers.add_row(kind, f"{level:g}", *mse, sign)
            if before.wrong is not None and after.wrong is not None:
                found |= {"damaged_wrong": before.wrong, "denoised_wrong": after.wrong}
                shown_wrong.add_row(kind, f"{level:g}", f"{before.wrong:.1%}", f"{after.wrong:.1%}")
            levels[f"{level:g}"] = found
        shown_numbers.add_section()
        numbers[kind] = levels
    tables = tuple(shown for shown in (shown_numbers, shown_wrong) if shown.row_count)
    return Section("denoising", numbers, tables, tuple(_sentences(subject, numeric)))


def _sentences(subject: Subject, numeric: bool) -> list[str]:
    manifest = subject.model.manifest
    share = "cells" if manifest.columns else "features"
    sentences = [
        f"Mean squared error per feature of {len(subject.sample.scaled):,} rows to what they were before, in scaled "
        "units.",
        "+3 dB: half of the error is gone; below 0 the model does more harm than the damage.",
    ]
    if numeric:
        sentences.append(f"Level: share of damaged {share}; gaussian: standard deviation.")
    else:
        sentences.append(
            f"Level: share of damaged {share}. Gaussian and salt-and-pepper noise are for numbers alone: left out, as "
            "not all columns are numeric."
        )
    if manifest.takes_missing:
        sentences.append(
            "Masked cells are missing (NaN) to the model, which fills them in and leaves the others; damaged, they "
            f"count as {'a mean' if numeric else 'a mean, or the commonest category'}."
        )
    elif numeric:
        sentences.append("Masked is 0: a mean, or an image's darkest.")
    else:
        sentences.append("Masked is a mean, or the commonest category.")
    return sentences


def _gain(before: float, after: float) -> float | None:
    """In dB."""
    return 10 * math.log10(before / after) if before and after else None


def _masked(model: Published, rows: np.ndarray, level: float) -> _Damage:
    """Cells, of any column with the same probability."""
    where = noise.masking(torch.ones(rows.shape), level, _generator()).where.numpy()
    nothing = model.unscaled(np.zeros_like(model.scaled(rows[:1])))
    kept = _clipped(model, rows)
    damaged = np.where(where & ~np.isnan(rows), nothing, kept)
    if not model.manifest.takes_missing:
        return _Damage(damaged, damaged, np.array(True))
    return _Damage(damaged, np.where(where, np.float32(np.nan), kept), where)


def _clipped(model: Published, rows: np.ndarray) -> np.ndarray:
    """The rows as the model sees them, in input units: what is clipped is no damage."""
    schema = model.manifest.row_schema
    seen = model.unscaled(np.nan_to_num(model.scaled(rows)))
    codes = np.zeros(rows.shape[-1], dtype=bool)
    if schema is not None:
        codes[:] = [column.type != "numeric" for column in schema.columns]
    return np.where(np.isnan(rows) | codes, rows, seen)


def _noisy(model: Published, sample: Sample, kind: str, level: float) -> _Damage:
    """Salt and pepper are each column's extremes, of images those of all pixels."""
    missing, clean = np.isnan(sample.scaled), torch.from_numpy(np.nan_to_num(sample.scaled))
    if kind == "gaussian":
        noisy = noise.gaussian(clean, level, _generator()).rows
    else:
        extremes = clean.flatten(0, -2).aminmax(dim=0) if model.manifest.columns else clean.aminmax()
        noisy = noise.salt_and_pepper(clean, level, extremes.min, extremes.max, _generator()).rows
    damaged = np.where(missing, np.float32(np.nan), model.unscaled(noisy.numpy()))
    return _Damage(damaged, damaged, np.array(True))


def _generator() -> Generator:
    """The same damage at every call."""
    return Generator().manual_seed(SEED)
