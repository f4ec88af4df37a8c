"""Some rows beside what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor

from hourglass.contract.manifest import RECONSTRUCTION
from training import noise
from training.noise import Damaged
from training.report import charts, pictures, windows
from training.report.charts import Block
from training.report.material import Material
from training.report.page import Figure, Section
from training.report.pictures import Head, Lane

TABLE_COLUMNS = 32
SPREADS = 3.0  # of a table's column: full colour
_IMAGES, _TABLE_ROWS = 10, 6
_DIFFERENCE = 0.5  # of the range of images: full colour
_MASKED = 0.25  # where the variant damages nothing itself


@runtime_checkable
class Corrupting(Protocol):
    """A variant that damages rows itself."""

    def corrupt(self, rows: Tensor, generator: Generator) -> Damaged: ...


@dataclass(frozen=True)
class Examples:
    """Some calibration rows by rising score: [n, *row_shape] in scaled units. where: the damaged features."""

    scores: np.ndarray
    rows: Tensor
    reconstructed: Tensor
    damaged: Tensor
    where: Tensor
    repaired: Tensor


def section(material: Material) -> Section:
    title = "What comes back"
    if not material.shows_rows:
        return Section(title, "This model was made with --no-examples: no picture on this page shows a single row.")
    most = _IMAGES if material.columns is None else windows.shown(material) if material.windowed else _TABLE_ROWS
    examples = _examples(material, most)
    damage = "as in training" if isinstance(material.autoencoder, Corrupting) else f"{_MASKED:.0%} masked"
    text = (
        f"{len(examples.rows)} calibration rows, which training never saw, from the lowest to the highest score, "
        f"and the same ones damaged ({damage})."
    )
    if material.windowed:
        text += (
            " Blue is the input and orange what comes back of it; thin, what the model makes of the damaged window. "
            "The channels that are repeated worst are shown, in the units of the data."
        )
        return Section(title, text, small=windows.examples(material, examples))
    figure = _images(material, examples) if material.columns is None else _table(material, examples)
    return Section(title, text, [figure])


def _examples(material: Material, most: int) -> Examples:
    n = len(material.scores)
    ranks = np.linspace(0, n - 1, min(most, n)).round().astype(int)
    chosen = np.argsort(material.scores, kind="stable")[ranks]
    rows = material.calibration[torch.from_numpy(chosen)]
    autoencoder, scaling = material.autoencoder, material.trained.served.scaling
    if isinstance(autoencoder, Corrupting):
        damaged = autoencoder.corrupt(torch.nan_to_num(rows), material.generator())
    else:
        damaged = noise.masking(rows, _MASKED, material.generator())
    seen = damaged.rows.clamp(scaling.low, scaling.high)  # as the served graph does
    if autoencoder.takes_missing:
        seen = torch.where(damaged.where | rows.isnan(), torch.nan, seen)
    return Examples(
        scores=material.scores[chosen],
        rows=rows,
        reconstructed=autoencoder(rows)[RECONSTRUCTION],
        damaged=seen,
        where=damaged.where.expand(rows.shape),
        repaired=autoencoder(seen)[RECONSTRUCTION],
    )


def _images(material: Material, examples: Examples) -> Figure:
    difference = (examples.rows - examples.reconstructed).numpy() / _DIFFERENCE
    lanes = [
        Lane("input", pictures.brightness(examples.rows.numpy())),
        Lane("reconstructed", pictures.brightness(examples.reconstructed.numpy())),
        Lane("difference", pictures.warmth(difference)),
        Lane("damaged", pictures.brightness(examples.damaged.numpy())),
        Lane("repaired", pictures.brightness(examples.repaired.numpy())),
    ]
    heads = [Head(f"{score:.3g}", "warn" if score > material.threshold else "") for score in examples.scores]
    return Figure(
        "Input and reconstruction",
        pictures.lanes(lanes, "Rows by rising score", heads, "score"),
        "A good model repeats the rows on the left; what it cannot repeat is on the right, and scores above the "
        "threshold stand out. Difference: warm where the input is brighter, cool where the reconstruction is, full "
        "colour at half the range of the data. Repaired: what the model makes of the damaged row alone.",
        wide=True,
    )


def _table(material: Material, examples: Examples) -> Figure:
    names = material.numbers
    errors = (examples.rows - examples.reconstructed).square().nanmean(dim=0).nan_to_num().numpy()
    columns = np.sort(np.argsort(-errors, kind="stable")[:TABLE_COLUMNS])
    lanes = {
        "input": examples.rows,
        "reconstructed": examples.reconstructed,
        "damaged": examples.damaged,
        "repaired": examples.repaired,
    }
    values = np.stack([rows.nan_to_num().numpy() for rows in lanes.values()], axis=1)[:, :, columns] / SPREADS
    # Noise on every cell needs no marks.
    where = _marks(examples, columns)
    blocks = [
        Block(
            f"score {score:.3g}",
            tuple(lanes),
            values[index],
            where[index],
            "warn" if score > material.threshold else "label",
        )
        for index, score in enumerate(examples.scores)
    ]
    crosses = "Crosses are damaged or missing cells. " if where.any() else ""
    categories = " or one of its categories" if material.categorical else ""
    some = f"The {len(columns)} columns with the largest errors are shown. " if len(columns) < len(names) else ""
    return Figure(
        "Input and reconstruction",
        charts.heat(blocks, [names[column] for column in columns], "Rows as warmth, by rising score"),
        f"Each block is a row, each cell a column{categories}: warm above the column's mean, cool below, full colour "
        f"from {SPREADS:g} standard deviations on. The score comes from where reconstructed differs from input; scores "
        "above the threshold stand out. Repaired: what the model makes of the damaged row alone. "
        f"{crosses}{some}".strip(),
        wide=True,
    )


def _marks(examples: Examples, columns: np.ndarray) -> np.ndarray:
    """bool [rows, lanes, columns]: cells of the row that are missing, and of the damaged one that are lost."""
    missing = examples.rows.isnan().numpy()[:, columns]
    nothing = np.zeros_like(missing)
    lost = nothing if examples.where.all() else examples.where.numpy()[:, columns]
    return np.stack([missing, nothing, missing | lost, nothing], axis=1)
