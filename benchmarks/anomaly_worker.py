"""Fits PyOD's detectors, in PyOD's own environment: never imported, run by benchmarks/peers.py.

For every line on standard input, {"detector": "KNN", "settings": {...}, "train": FILE, "test": FILE, "scores": FILE}
in JSON, it fits a new detector on the rows of `train`, writes decision_function of the rows of `test` to `scores` (all
.npy) and answers with {"fit_seconds", "fit_processor_seconds", "score_seconds", "threads", "versions"}.
"""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

from __future__ import annotations

import importlib.metadata
import json
import sys
import time

import numpy as np
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from pyod.models.vae import VAE

DETECTORS = {detector.__name__: detector for detector in (AutoEncoder, VAE, KNN, IForest, ECOD, PCA)}
PACKAGES = ("pyod", "torch", "scikit-learn", "numpy")


def measure(detector, settings, train, test):
    """Scores of `test`, and the seconds of it all. train, test: float64 [n, columns]."""
    processor, started = time.process_time(), time.perf_counter()
    fitted = DETECTORS[detector](**settings)
    fitted.fit(train)
    processor_ended, fit_ended = time.process_time(), time.perf_counter()
    scores = fitted.decision_function(test)
    ended = time.perf_counter()
    return scores, {
        "fit_seconds": fit_ended - started,
        "fit_processor_seconds": processor_ended - processor,
        "score_seconds": ended - fit_ended,
    }


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # peers talk
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    few = np.random.default_rng(0).normal(size=(64, 4))
    warm = set()
    for line in sys.stdin:
        asked = json.loads(line)
        train, test = (np.load(asked[part]).astype(np.float64) for part in ("train", "test"))
        if asked["detector"] not in warm:  # the first fit of a process is slow
            measure(asked["detector"], asked["settings"], few, few)
            warm.add(asked["detector"])
        scores, seconds = measure(asked["detector"], asked["settings"], train, test)
        np.save(asked["scores"], scores)
        answers.write(json.dumps({**seconds, "threads": torch.get_num_threads(), "versions": versions}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
