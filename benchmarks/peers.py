"""The trainers we are compared with, each in a virtual environment of its own: pythae and PyOD pin other versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

REQUIREMENTS = {
    "pythae": ("pythae==0.1.2", "torch==2.13.*"),
    "pyod": ("pyod==3.6.7", "torch==2.13.*", "tqdm"),
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hourglass-benchmarks"


class Peer:
    """A process of the peer's environment that waits to be asked."""

    def __init__(self, name: str, worker: str, *arguments: str | Path) -> None:
        """worker: a file beside this one. Makes the environment when there is none (minutes)."""
        self._name, self._worker = name, worker
        self._process = subprocess.Popen(
            [_environment(name), Path(__file__).with_name(worker), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, question: str = "") -> str:
        """One line to the worker, one line back. Raises RuntimeError when it ends instead."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._name} failed: run {self._worker} by hand to see why")
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its input, which ends it


def _environment(name: str) -> Path:
    """The environment's python."""
    folder = CACHE / name
    ready = folder / ".ready"
    requirements = "\n".join(REQUIREMENTS[name])
    if not ready.exists() or ready.read_text() != requirements:
        print(f"installing {', '.join(REQUIREMENTS[name])} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
        ready.write_text(requirements)
    return folder / "bin" / "python"
