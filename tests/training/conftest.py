from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from training.config import FitConfig
from training.fit import fit
from training.progress import Progress

# Small enough for a second, large enough to learn something; on the processor, where the same seed gives the same bits.
SMALL = {"hidden": (32,), "embedding_dim": 8, "batch_size": 128, "epochs": 3, "device": "cpu"}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., FitConfig]:
    """A FitConfig whose folders are the test's own."""

    def make(**settings: object) -> FitConfig:
        folders = {"exported": tmp_path / "exported", "runs": tmp_path / "runs"}
        return FitConfig.model_validate({"data": "digits", "name": "digits", **folders, **SMALL, **settings})

    return make


@pytest.fixture
def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """exported/digits/1, a small denoising model of digits; its run is under the sibling folder `runs`."""
    folder = tmp_path_factory.mktemp("published")
    settings = {"data": "digits", "name": "digits", "exported": folder / "exported", "runs": folder / "runs"}
    return fit(FitConfig.model_validate({**settings, **SMALL}), Progress(Console(file=io.StringIO())))
