"""`make bench`: the server beside the wire's and the runtime's limits; `make bench-peers`: beside other servers.

Writes benchmarks/results.json, and docs/performance.md from it. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.serving import cases, models, page, versus
from benchmarks.serving.load import generator
from benchmarks.serving.measuring import Case, console, show
from service.devices import available_cores

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PACKAGES = ("grpcio", "protobuf", "uvloop", "onnxruntime", "onnxruntime-gpu", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="beside other servers, all or those named")
    peers = parser.parse_args().peers
    part = "limits" if peers is None else "peers"
    with tempfile.TemporaryDirectory(prefix="hourglass-bench-") as folder:
        exported = models.publish(Path(folder))
        measured = _shown(cases.all_cases(exported) if peers is None else versus.all_cases(exported, peers))
    record = {
        "machine": machine.processor(),
        "cores": available_cores(),
        "python": sys.version.split()[0],
        "versions": machine.versions(PACKAGES),
        "commit": machine.commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "generator": generator(),
        "configurations": versus.configurations() if peers is not None else {},
        "cases": [case.record() for case in measured],
    }
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, part: record}, indent=1, ensure_ascii=False) + "\n")
    page.write(RESULTS, PAGE)
    return int(any(ratio.met is False for case in measured for ratio in case.ratios))


def _shown(cases_: Iterable[Case]) -> list[Case]:
    measured = []
    for case in cases_:
        show(case)
        console.print()
        measured.append(case)
    return measured


if __name__ == "__main__":
    sys.exit(main())
