"""Trains a peer's autoencoder, in the peer's own environment: never imported, run by benchmarks/peers.py.

Arguments: the peer's name, a .npy file of rows in scaled units, and the settings in JSON: {"hidden": [...],
"embedding_dim": d, "batch_size": b, "epochs": e}. For every line on standard input it trains once from the beginning
and answers with the rows per second of the peer's own training loop.
"""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import time
from itertools import pairwise

import numpy as np
import torch


def pythae(rows, settings, folder):
    """pythae's BaseTrainer with its AE: the same dense layers as ours, its loss summed over features as ours is."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, AEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    features = math.prod(rows.shape[1:])
    sizes = [features, *settings["hidden"], settings["embedding_dim"]]

    def dense(widths):
        layers = []
        for width, following in pairwise(widths):
            layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = dense(sizes)

        def forward(self, x):
            return ModelOutput(embedding=self.layers(x))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = dense(sizes[::-1])

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    flat = torch.from_numpy(rows.reshape(len(rows), -1))
    model = AE(AEConfig(input_dim=(features,), latent_dim=sizes[-1]), Encoder(), Decoder())
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=1e-3,
        keep_best_on_train=True,
    )
    trainer = BaseTrainer(model, BaseDataset(flat, torch.ones(len(flat))), training_config=config)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def pyod(rows, settings, _folder):
    """PyOD's AutoEncoder without its batch normalisation and dropout; the scoring that follows is not counted."""
    from pyod.models.auto_encoder import AutoEncoder

    class Timed(AutoEncoder):
        def train(self, train_loader):
            started = time.perf_counter()
            super().train(train_loader)
            self.seconds = time.perf_counter() - started

    detector = Timed(
        hidden_neuron_list=[*settings["hidden"], settings["embedding_dim"]],
        epoch_num=settings["epochs"],
        batch_size=settings["batch_size"],
        batch_norm=False,
        dropout_rate=0.0,
        preprocessing=False,
        optimizer_params={},
        verbose=0,
    )
    detector.fit(rows.reshape(len(rows), -1))
    return detector.seconds


def main():
    peer, file, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    rows = np.load(file)
    answers, sys.stdout = sys.stdout, sys.stderr  # peers talk
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            seconds = {"pythae": pythae, "pyod": pyod}[peer](rows, settings, folder)
        answers.write(f"{settings['epochs'] * len(rows) / seconds}\n")
        answers.flush()


if __name__ == "__main__":
    main()
