"""`make bench-anomaly`: our anomaly scores beside PyOD's on ADBench's sets, as a user gets them from both.

Every set is split by five seeds in two ways (benchmarks/anomaly_data.py). What is in benchmarks/results/anomaly is not
measured again unless the method's settings or versions are others now, so it may be interrupted at any time. At the
end docs/anomaly-benchmark.md is made of the records. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from benchmarks import anomaly_data, anomaly_records
from benchmarks.anomaly_data import PROTOCOLS, Protocol, Source
from benchmarks.anomaly_methods import OURS, PEERS, Method, methods
from benchmarks.anomaly_promises import promises
from benchmarks.anomaly_records import Record, fingerprint
from benchmarks.machine import commit, processor
from sklearn.metrics import average_precision_score, roc_auc_score

SEEDS = range(5)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.anomaly", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HOURGLASS_DATA"), help="folder with adbench/")
    parser.add_argument("--sets", nargs="+", help="all of them unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--methods", nargs="+", default=(*OURS, *PEERS), choices=(*OURS, *PEERS))
    parser.add_argument("--redo", action="store_true", help="what has been measured too: to compare times")
    parsed = parser.parse_args(arguments)
    if parsed.data is None:
        parser.error("--data, or the environment variable HOURGLASS_DATA, names the folder with adbench/")
    files = anomaly_data.names(parsed.data / "adbench")
    _measure({name: files[name] for name in parsed.sets or files}, parsed.seeds, parsed.methods, parsed.redo)
    return 0


def _measure(files: dict[str, Path], seeds: Sequence[int], names: Sequence[str], redo: bool) -> None:
    """Methods take turns on the same split, so that what else the machine does is shared by all."""
    run, known = datetime.now(UTC), {} if redo else _known(names)
    with ExitStack() as stack:
        every = methods(stack)
        for seed, (set_name, file), protocol in product(seeds, files.items(), PROTOCOLS):
            source = anomaly_data.read(set_name, file)
            for name in names:
                method, key = every[name], (name, protocol, set_name, seed)
                if known.get(key) != fingerprint(method.settings(protocol), source.sha256):
                    record = _record(method, source, protocol, seed, run)
                    anomaly_records.write(record)
                    print(
                        f"seed {seed}, {set_name}, {protocol}, {name}: AUROC {record.auroc:.3f}, "
                        f"fit {record.fit_seconds:.1f} s",
                        flush=True,
                    )


def _known(names: Sequence[str]) -> dict[tuple[str, ...], str]:
    return {(record.method, *record.key): record.fingerprint for record in anomaly_records.read(names)}


def _record(method: Method, source: Source, protocol: Protocol, seed: int, run: datetime) -> Record:
    split = anomaly_data.split(source, protocol, seed)
    measured = method.measure(split, protocol, seed)
    promised = protocol == "clean" and measured.fitted is not None
    return Record(
        protocol=protocol,
        set=source.name,
        seed=seed,
        method=method.name,
        settings=method.settings(protocol),
        data_sha256=source.sha256,
        auroc=roc_auc_score(split.anomalous, measured.scores),
        auprc=average_precision_score(split.anomalous, measured.scores),
        train_rows=len(split.train),
        test_rows=len(split.test),
        columns=split.train.shape[1],
        promises=promises(measured, split, seed) if promised else None,
        **measured.cost.model_dump(),
        processor=processor(),
        commit=commit(),
        run=run,
    )


if __name__ == "__main__":
    sys.exit(main())
