"""How much of a damage the model undoes."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training import noise
from training.evaluation.section import Numbers, Section, shown, table
from training.evaluation.subject import SEED, Subject, mean_squared
from training.variants.denoising import NOISES

LEVELS = (0.1, 0.25, 0.5)


def measure(subject: Subject) -> Section:
    """On the sample."""
    scaling, scaled = subject.model.manifest.scaling, subject.sample.scaled
    clean = torch.from_numpy(scaled)
    numbers: dict[str, Numbers] = {}
    shown_numbers = table("noise", "level", "damaged", "denoised", "gain in dB")
    for kind in NOISES:
        levels: dict[str, Numbers] = {}
        for level in LEVELS:
            damaged = _damaged(clean, kind, level).numpy()
            denoised = scaling.unclipped(subject.model.reconstruct(scaling.inverse(damaged)))
            before, after = mean_squared(scaled, damaged), mean_squared(scaled, denoised)
            gain = 10 * math.log10(before / after) if before and after else None
            levels[f"{level:g}"] = {"damaged_mse": before, "denoised_mse": after, "gain_db": gain}
            sign = f"{gain:+.2f}" if gain is not None else "–"
            shown_numbers.add_row(kind, f"{level:g}", shown(before), shown(after), sign)
        shown_numbers.add_section()
        numbers[kind] = levels
    sentences = (
        f"Mean squared error per feature of {len(scaled):,} rows to what they were before, in scaled units.",
        "+3 dB: half of the error is gone; below 0 the model does more harm than the damage.",
        "Level: share of damaged features; gaussian: standard deviation. Masked is 0: a mean, or an image's darkest.",
    )
    return Section("denoising", numbers, (shown_numbers,), sentences)


def _damaged(clean: Tensor, kind: str, level: float) -> Tensor:
    """The same damage at every call. Salt and pepper are each column's extremes, of images those of all pixels."""
    generator = Generator().manual_seed(SEED)
    if kind == "gaussian":
        return noise.gaussian(clean, level, generator).rows
    if kind == "masking":
        return noise.masking(clean, level, generator).rows
    extremes = clean.aminmax(dim=0) if clean.ndim == 2 else clean.aminmax()
    return noise.salt_and_pepper(clean, level, extremes.min, extremes.max, generator).rows
