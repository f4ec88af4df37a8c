"""What a benchmark says about where it ran."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu(index: int) -> str:
    """Its name and its driver, as the driver says them."""
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    return f"{name}, driver {driver}"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
