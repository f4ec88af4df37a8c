"""Checkpoints: a Training at the end of an epoch as one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.autoencoder import Autoencoder
from training.errors import RunError
from training.trainer import Training

_STATE = "state"


def write(path: Path, training: Training) -> None:
    tensors = {
        **_prefixed("model", training.model.state_dict()),
        **_prefixed("best", training.best_weights),
        "random.torch": torch.get_rng_state(),
        "random.training": training.generator.get_state(),
    }
    for index, moments in training.optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer.{index}", moments)
    best_loss = training.best_loss if math.isfinite(training.best_loss) else None
    state: dict[str, Any] = {"epoch": training.epoch, "best_epoch": training.best_epoch, "best_loss": best_loss}
    if training.scaler.is_enabled():
        state["scaler"] = training.scaler.state_dict()
    # Copied: weights that two layers share are written twice, which the format wants.
    copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
    data = save(copies, {_STATE: json.dumps(state)})
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def resume(path: Path, training: Training) -> None:
    """Bring `training` to where `path` was written. Raises RunError."""
    tensors, state = _read(path)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer", tensors).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    optimizer = training.optimizer.state_dict()
    optimizer["state"] = moments
    try:
        training.model.load_state_dict(_under("model", tensors))
        training.optimizer.load_state_dict(optimizer)
        training.scaler.load_state_dict(state.get("scaler", {}))
        _restore(training, tensors["random.training"])
        torch.set_rng_state(tensors["random.torch"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunError(f"{path}: does not fit this run's model: {str(error).splitlines()[-1].strip()}") from None
    training.best_weights = _under("best", tensors)
    training.epoch = state["epoch"]
    training.best_epoch = state["best_epoch"]
    training.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]


def load_best(path: Path, model: Autoencoder) -> int:
    """Give `model` the weights of the best epoch so far, and return that epoch. Raises RunError."""
    tensors, state = _read(path)
    try:
        model.load_state_dict(_under("best", tensors))
    except RuntimeError as error:
        raise RunError(f"{path}: does not fit this run's model: {str(error).splitlines()[-1].strip()}") from None
    return int(state["best_epoch"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned: the file's own memory is not aligned as torch's kernels have it for the same bits.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()[_STATE])
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: not a checkpoint: {error}") from None


def _restore(training: Training, random: Tensor) -> None:
    """Processors and GPUs draw otherwise: on the other kind a run goes on with random numbers of its own."""
    if random.shape == training.generator.get_state().shape:
        training.generator.set_state(random)
    else:
        training.generator.manual_seed(training.config.seed + int(random.sum()))


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): v for n, v in tensors.items() if n.startswith(f"{prefix}.")}
