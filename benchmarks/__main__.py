"""`make bench`: every benchmark, after a line about the machine. Exit code 1 when a bar is missed."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import training
from service.session import available_cores


def main() -> int:
    versions = {package: importlib.metadata.version(package) for package in ("torch", "onnxruntime", "grpcio", "numpy")}
    print(f"{_processor()}, {available_cores()} cores, {platform.system()} {platform.release()}")
    print(f"python {platform.python_version()}, " + ", ".join(" ".join(item) for item in versions.items()))
    print(f"commit {_commit()}")
    return training.main([])


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
