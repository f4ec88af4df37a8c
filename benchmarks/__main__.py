"""`make bench`: every benchmark, after a line about the machine. Exit code 1 when a bar is missed."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from benchmarks import training
from benchmarks.machine import commit, processor
from service.session import available_cores


def main() -> int:
    versions = {package: importlib.metadata.version(package) for package in ("torch", "onnxruntime", "grpcio", "numpy")}
    print(f"{processor()}, {available_cores()} cores, {platform.system()} {platform.release()}")
    print(f"python {platform.python_version()}, " + ", ".join(" ".join(item) for item in versions.items()))
    print(f"commit {commit()}")
    return training.main([])


if __name__ == "__main__":
    sys.exit(main())
