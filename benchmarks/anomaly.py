"""`make bench-anomaly`: our anomaly scores beside PyOD's on ADBench's sets, as a user gets them from both.

Every set is split by five seeds in two ways (benchmarks/anomaly_data.py). What is in benchmarks/results/anomaly is not
measured again unless the method's settings or versions are others now, so it may be interrupted at any time. At the
end docs/anomaly-benchmark.md is made of the records. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import anomaly_data, anomaly_page, anomaly_records
from benchmarks.anomaly_data import PROTOCOLS, Protocol, Source
from benchmarks.anomaly_methods import OURS, PEERS, Method, methods
from benchmarks.anomaly_promises import promises
from benchmarks.anomaly_records import Record, fingerprint
from benchmarks.machine import commit, processor

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
    if unknown := set(parsed.sets or ()) - files.keys():
        parser.error(f"--sets: {', '.join(sorted(unknown))}: not among {', '.join(files)}")
    with ExitStack() as stack:
        every = methods(stack)
        chosen = {name: files[name] for name in parsed.sets or files}
        _measure(chosen, parsed.seeds, [every[name] for name in parsed.methods], parsed.redo)
        records = [record for record in anomaly_records.read(every) if _is_current(record, every[record.method])]
    missed = anomaly_page.show(records, Console(width=100))
    if missing := len(every) * len(files) * len(SEEDS) * len(PROTOCOLS) - len(records):
        print(f"{missing:,} records are missing, so {anomaly_page.PAGE.name} stays as it is")
    else:
        anomaly_page.write(records)
    return int(missed)


def _measure(files: Mapping[str, Path], seeds: Sequence[int], chosen: Sequence[Method], redo: bool) -> None:
    """Methods take turns on the same split, so that what else the machine does is shared by all."""
    run = datetime.now(UTC)
    known = {(r.method, *r.key): r.fingerprint for r in anomaly_records.read(method.name for method in chosen)}
    for seed, (set_name, file), protocol in product(seeds, files.items(), PROTOCOLS):
        source = anomaly_data.read(set_name, file)
        for method in chosen:
            expected = fingerprint(method.settings(protocol), source.sha256)
            if redo or known.get((method.name, protocol, set_name, seed)) != expected:
                record = _record(method, source, protocol, seed, run)
                anomaly_records.write(record)
                measured = f"AUROC {record.auroc:.3f}, fit {record.fit_seconds:.1f} s"
                print(f"seed {seed}, {set_name}, {protocol}, {method.name}: {measured}", flush=True)


def _is_current(record: Record, method: Method) -> bool:
    return record.fingerprint == fingerprint(method.settings(record.protocol), record.data_sha256)


def _record(method: Method, source: Source, protocol: Protocol, seed: int, run: datetime) -> Record:
    split = anomaly_data.split(source, protocol, seed)
    measured = method.measure(split, protocol, seed)
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
        promises=promises(measured, split, seed) if protocol == "clean" else None,
        **measured.cost.model_dump(),
        processor=processor(),
        commit=commit(),
        run=run,
    )


if __name__ == "__main__":
    sys.exit(main())
