"""What test_parallel.py trains, in one process and, started by torchrun, in several."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from training import parallel
from training.autoencoder import registered
from training.config import FitConfig
from training.fit import build
from training.trainer import Training

TABLE, IMAGE = (6,), (5, 5)
# Every variant, and what has a batch mean, an extreme, a draw or a weight that must be those of the whole batch.
CASES: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    **{name: (IMAGE, {"variant": name}) for name in registered()},
    "missing cells": (TABLE, {"options": {"damaged_weight": 2.0}}),
    "gaussian": (TABLE, {"options": {"noise": "gaussian"}}),
    "salt and pepper": (IMAGE, {"options": {"noise": "salt_and_pepper"}}),
    "the user's noise": (IMAGE, {"options": {"noise": "tests.training.parallel_worker:shifted"}}),
    "mixed": (TABLE, {"training_data": "mixed"}),
    "sparse, strictly": (IMAGE, {"variant": "sparse", "options": {"rho": 0.2, "beta": 30.0}}),
    "stacked on several layers": (
        IMAGE,
        {"variant": "stacked", "hidden": (12, 9), "options": {"noise": "salt_and_pepper", "pretraining": 0.7}},
    ),
    "an estimated Jacobian": (IMAGE, {"variant": "contractive", "options": {"jacobian": "hutchinson"}}),
    "black and white": (IMAGE, {"variant": "vae", "options": {"binarise": True}}),
    "learned variance": (TABLE, {"variant": "beta_vae"}),
    "a capacity that is reached": (
        IMAGE,
        {"variant": "annealed_beta_vae", "learning_rate": 0.02, "options": {"capacity_from": 3.4, "capacity_to": 3.42}},
    ),
    "float16": (IMAGE, {"precision": "fp16"}),
}


def shifted(rows: Tensor, generator: Generator) -> Tensor:
    """By one number for all rows, that their mean has a part in."""
    return rows + torch.rand(1, generator=generator) * rows.mean()


def trained(case: str) -> dict[str, Tensor]:
    """Weights, random state and losses. Batches of 33 rows, and a last one of 1: fewer than there are processes."""
    row_shape, settings = CASES[case]
    chosen = {"data": "digits", "name": "x", "hidden": (12,), "embedding_dim": 6, "epochs": 3, "batch_size": 33}
    config = FitConfig.model_validate({**chosen, "device": "cpu", "patience": 9, **settings})
    rows = torch.rand(100, *row_shape, generator=Generator().manual_seed(1))
    if case == "missing cells":
        rows[rows < 0.1] = torch.nan
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, row_shape), config)
        training.run(
            rows, rows[:31], lambda record: losses.extend([*record.train.values(), *record.early_stop.values()])
        )
    state = {"random": training.generator.get_state(), "losses": torch.tensor(losses, dtype=torch.float64)}
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}  # tied ones are shared
    return {**weights, **state}


def main(folder: Path) -> None:
    with parallel.joined(torch.device("cpu")):
        for case in CASES:
            save_file(trained(case), folder / f"{case}.{parallel.rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
