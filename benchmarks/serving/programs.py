"""The two programs in C++, compiled when Debian's libgrpc++-dev is there: the load generator and the wire's limit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import CACHE

_SOURCES = Path(__file__).parent


def compiled(name: str) -> Path | None:
    """load or echo; None where it cannot be compiled."""
    if not shutil.which("g++") or subprocess.run(["pkg-config", "--exists", "grpc++"], check=False).returncode:
        return None
    source, program = _SOURCES / f"{name}.cpp", CACHE / "programs" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        print(f"compiling {source.name}", file=sys.stderr)
        program.parent.mkdir(parents=True, exist_ok=True)
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=True
        )
        command = ["g++", "-O2", "-std=c++17", str(source), "-o", str(program), *flags.stdout.split()]
        subprocess.run(command, check=True)
    return program
