"""Types for those who install the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hourglass

PROGRAM = Path(__file__).with_name("typed_user.py")
CLASSES = ("Client", "AsyncClient", "Embeddings", "Reconstructions", "Generated", "Scores", "TopFeatures", "Health")
# What the clients do with answers.
OF_THE_CLIENT = {"join", "split", "fdr_controlled"}


def test_a_users_program_is_typed(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Far from this project's settings; with a cache, since numpy alone takes seconds."""
    (tmp_path / "user.py").write_text(PROGRAM.read_text())
    cache = pytestconfig.cache.mkdir("mypy")  # type: ignore[union-attr]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_uses_all_there_is() -> None:
    text = PROGRAM.read_text()
    kinds = [getattr(hourglass, name) for name in CLASSES]
    methods = {name for kind in kinds for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name))}
    assert [name for name in hourglass.__all__ if name not in text] == []
    assert [name for name in methods - OF_THE_CLIENT if f".{name}(" not in text] == []
