"""Half precision: networks that compute in float16, by how much that moves their answers, and by how much it may."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor, nn

from hourglass.contract.manifest import (
    EMBEDDING,
    FLOAT16,
    FLOAT32,
    LARGEST_TOLERANCE,
    SCORE,
    HalfPrecision,
    Precision,
    Tolerance,
)
from training.errors import ExportError
from training.graphs import Served
from training.runtime import Graph

# What two runtimes may differ by in float32, in Served.units; and by how much of their size two numbers must differ for
# rounding not to swap them: some ten times what runtimes really differ by.
PARITY = Tolerance(atol=1e-5, rtol=1e-4)
CLEAR: Mapping[Precision, float] = {FLOAT32: 1e-4, FLOAT16: 5e-3}

LEAST_COSINE = 0.999
MOST_AUROC_CHANGE = 0.005
_FEW = 0.05  # of the rows may have a lower cosine: of a k-sparse model up to 3 % have near ties, decided otherwise
_DAMAGED = 0.1  # of a row's numbers
# On other runtimes' answers to golden rows, over the most seen here: onnx's own, which rounds after every operator and
# sums in float16, needed up to 2.7 (docs/adr/0021-half-precision.md).
_HEADROOM = 4.0
_RTOLS = tuple(LARGEST_TOLERANCE / 2**halvings for halvings in reversed(range(7)))  # of equals the smallest is taken
_PASS_ROWS = 1_000
IN_FLOAT32 = "publish it in float32: leave --precision out"

Answers = Mapping[str, np.ndarray]


class _Half(nn.Module):
    """A network that is float16 inside, between inputs and outputs that are float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, numbers: Tensor) -> Tensor:
        answer: Tensor = self.network(numbers.half()).float()
        return answer


def halved(served: Served) -> Served:
    """A copy whose encoder and decoder compute in float16.

    Scaling, the choice of active units, likelihoods and the score stay float32: a sum of squares soon exceeds 65,504,
    the largest number of float16.
    """
    half = copy.deepcopy(served)
    model = half.autoencoder
    model.encoder, model.decoder = _Half(model.encoder), _Half(model.decoder)
    return half


@dataclass(frozen=True)
class Moved:
    """What half precision made of some rows: each answer in float32, and in float16 by two runtimes.

    graph: by onnxruntime, which on CPUs without float16 arithmetic computes in float32, with float16 weights. rounded:
    by torch, which on any machine rounds to float16 after every layer, as a GPU does.
    """

    exact: Answers
    graph: Answers
    rounded: Answers

    def __post_init__(self) -> None:
        """Raises ExportError."""
        for answers in (self.graph, self.rounded):
            if wrong := [name for name, value in answers.items() if not np.isfinite(value).all()]:
                raise ExportError(
                    f"float16 cannot hold what this model computes: {wrong[0]} becomes infinite or NaN; {IN_FLOAT32}"
                )

    def tolerances(self, units: Answers) -> dict[str, Tolerance]:
        """For each output, in its units, what a runtime may differ from the graph on this one: 4 times the most seen.

        What float16 makes of the weights is the same everywhere; another runtime rounds sums at other places, by as
        much. Of the pairs that allow so much, the one that allows least at the median.
        """
        found = {}
        for name, answer in self.graph.items():
            unit = units.get(name, np.float32(1))
            size = np.abs(answer) / unit
            seen = np.maximum(np.abs(answer - self.exact[name]), np.abs(answer - self.rounded[name])) / unit
            usual = float(np.median(size))
            pairs = [
                Tolerance(atol=max(PARITY.atol, float((_HEADROOM * seen - rtol * size).max())), rtol=rtol)
                for rtol in _RTOLS
            ]
            found[name] = min(pairs, key=lambda pair: pair.atol + pair.rtol * usual)
        return found

    def cosine(self) -> float:
        """Of the embeddings with float32's: what all but 5 % of the rows reach, by the runtime that moves them most."""
        halves = (answers[EMBEDDING] for answers in (self.graph, self.rounded))
        return min(float(np.quantile(_cosines(self.exact[EMBEDDING], half), _FEW)) for half in halves)

    def auroc(self, anomalous: np.ndarray) -> tuple[float, float]:
        """In float32, and by the runtime that moves it most. anomalous: bool [n]."""
        exact, *halves = (
            float(roc_auc_score(anomalous, answers[SCORE])) for answers in (self.exact, self.graph, self.rounded)
        )
        return exact, max(halves, key=lambda half: abs(half - exact))


@dataclass(frozen=True)
class Halved:
    """A model in float32, in float16, and the float16 one's model.onnx."""

    served: Served
    half: Served
    graph: Graph

    def moved(self, rows: Tensor) -> Moved:
        """rows: float32 [n, *row_shape] in input units. Raises ExportError."""
        return Moved(_answers(self.served, rows), self.graph.run_all(rows.numpy()), _answers(self.half, rows))

    def proven(self, early_stop: Tensor, calibration: Tensor, excluded: Tensor | None) -> HalfPrecision:
        """That the model is still what it was: its embeddings by their cosine, its scores by their AUROC.

        Rows: float32 [n, *row_shape] in input units. excluded: anomalies at hand. Raises ExportError.
        """
        cosine = self.moved(early_stop).cosine()
        anomalies: Literal["excluded", "damaged"] = "damaged" if excluded is None else "excluded"
        odd = _damaged(calibration) if excluded is None else excluded
        moved = self.moved(torch.cat([calibration, odd]))
        exact, auroc = moved.auroc(np.repeat([False, True], [len(calibration), len(odd)]))
        if cosine < LEAST_COSINE or abs(auroc - exact) > MOST_AUROC_CHANGE:
            raise ExportError(
                f"float16 changes this model too much: 5 % of the rows have embeddings whose cosine with float32's is "
                f"below {cosine:.5f} (least allowed: {LEAST_COSINE:g}), and the AUROC of {anomalies} rows "
                f"is {auroc:.4f} after {exact:.4f} (most allowed: {MOST_AUROC_CHANGE:g} apart); {IN_FLOAT32}"
            )
        return HalfPrecision(cosine=cosine, auroc=auroc, float32_auroc=exact, anomalies=anomalies)


def cosine_shown(found: HalfPrecision) -> str:
    """To six decimals, rounded down: it is a least."""
    return f"{math.floor(1e6 * found.cosine) / 1e6:.6f}"


def in_one_line(found: HalfPrecision) -> str:
    """What float16 changed, for people."""
    return (
        f"float16 beside float32: cosine of embeddings at least {cosine_shown(found)} for 95 % of the rows; AUROC of "
        f"{found.anomalies} rows {found.auroc:.4f}, in float32 {found.float32_auroc:.4f}"
    )


@torch.inference_mode()
def _answers(served: Served, rows: Tensor) -> dict[str, np.ndarray]:
    parts = [served.eval()(part) for part in torch.split(rows, _PASS_ROWS)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _damaged(rows: Tensor) -> Tensor:
    """Stand-ins for anomalies, [n, ...]: of each row a tenth of the numbers, one at least, is another row's."""
    generator = Generator().manual_seed(0)
    others = rows[torch.randperm(len(rows), generator=generator)]
    chance = torch.rand(rows.shape, generator=generator).flatten(1)
    count = max(1, round(_DAMAGED * chance.shape[1]))
    chosen = chance <= chance.kthvalue(count, dim=1, keepdim=True).values
    return torch.where(chosen.reshape(rows.shape), others, rows)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[n]; 1 where both are 0, 0 where only one is."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / np.where(sizes > 0, sizes, 1)
    return np.where((one == other).all(axis=1), 1, cosines.clip(-1, 1))
