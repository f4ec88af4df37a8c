"""What the search benchmark found, on the terminal and as docs/search-benchmark.md."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.anomaly_page import MISSED, REACHED, Table
from benchmarks.machine import commit, processor, versions
from benchmarks.search_choice import CHOSEN, RESULTS
from benchmarks.search_index import ALONE, FUNCTION, LONG, Killed
from hourglass.contract.quantization import Encoding

PAGE = Path(__file__).parent.parent / "docs" / "search-benchmark.md"
RAW, PCA, EMBEDDING = "raw pixels", "PCA of the pixels", "embeddings"
ENCODINGS: tuple[Encoding, ...] = ("float32", "float16", "int8", "binary")
CANDIDATES = (50, 100, 200, 500, 1000, 2000)
_RANKED = 500  # candidates of a query that the bar is for
_FLOAT16_BAR, _INT8_BAR, _BINARY_BAR, _SPEED_BAR = 0.999, 0.97, 0.90, 0.6
_HOW = ("plain", "normalised")

_HEAD = f"""# Vector search: what is found, and how fast it gets there

`make bench-search` measures this and writes this page: fashion-mnist, the 60,000 training images indexed, the 10,000
test images asking for their ten nearest, by exact search. The model was fitted without labels, by

```
hourglass-train fit --data train-images-idx3-ubyte.gz --name fashion {CHOSEN}
```

and served by `hourglass-serve`; every embedding, in every encoding, is what its Embed RPC answered.
"""


@dataclass(frozen=True)
class Measured:
    """labels: label precision by what is compared, then plain or normalised. recalls: by plain or normalised, then by
    encoding. rates: rows/s of each turn."""

    labels: Mapping[str, Mapping[str, float]]
    recalls: Mapping[str, Mapping[str, float]]
    rates: Mapping[str, Sequence[float]]
    killed: Sequence[Killed]


def reranked(candidates: int) -> str:
    return f"binary, {candidates:,} re-ranked"


def tables(measured: Measured) -> Sequence[Table]:
    return [_bars(measured), _labels(measured), _recalls(measured), _rates(measured), _killed(measured), _choice()]


def write(made: Sequence[Table]) -> None:
    PAGE.write_text("\n".join([_HEAD, *(table.markdown() for table in made), _machine()]), encoding="utf-8")


def _bars(measured: Measured) -> Table:
    raw, ours = (max(measured.labels[what].values()) for what in (RAW, EMBEDDING))
    least = {name: min(of[name] for of in measured.recalls.values()) for name in measured.recalls["plain"]}
    speed = min(_ratio(measured.rates, what) for what in (FUNCTION, LONG))
    missing, doubled = (sum(getattr(k, what) for k in measured.killed) for what in ("missing", "doubled"))
    rows = [
        ("label precision@10, embeddings / raw pixels", f"{ours:.4f} / {raw:.4f}", "≥ 1", ours >= raw),
        *(
            (f"recall@10, {name}", f"{least[name]:.4f}", f"≥ {bar:g}", least[name] >= bar)
            for name, bar in (("float16", _FLOAT16_BAR), ("int8", _INT8_BAR), (reranked(_RANKED), _BINARY_BAR))
        ),
        ("rows/s, file to LanceDB / Embed alone", f"{speed:.2f}", f"≥ {_SPEED_BAR:g}", speed >= _SPEED_BAR),
        ("killed half way, run again: rows missing", str(missing), "0", missing == 0),
        ("killed half way, run again: rows doubled", str(doubled), "0", doubled == 0),
    ]
    note = (
        "\nOf raw pixels and of embeddings each the better one of plain (Euclidean) and normalised (by angle); of "
        "recalls the lower one; of rows/s the lower one of the function's, and of the program's with 600,000 rows."
    )
    shown = [(what, found, bar, REACHED if reached else MISSED) for what, found, bar, reached in rows]
    return Table("Bars", note, ("", "measured", "asked", ""), shown)


def _labels(measured: Measured) -> Table:
    note = (
        "\nShare of the ten nearest that have the query's label, which no training has seen. Plain: by Euclidean "
        "distance; normalised: of length 1, which ranks by angle. PCA: centred, as many components as an embedding has "
        "numbers."
    )
    rows = [(what, *(f"{found[how]:.4f}" for how in _HOW)) for what, found in measured.labels.items()]
    return Table("Label precision@10", note, ("compared", *_HOW), rows)


def _recalls(measured: Measured) -> Table:
    note = (
        "\nShare of the ten nearest by FLOAT32 that are found when index and query are both in the encoding. binary: "
        "by Hamming distance; re-ranked: so many of its nearest, ranked by their INT8 embeddings."
    )
    rows = [(name, *(f"{measured.recalls[how][name]:.4f}" for how in _HOW)) for name in measured.recalls["plain"]]
    return Table("Recall@10", note, ("encoding", *_HOW), rows)


def _rates(measured: Measured) -> Table:
    turns = len(measured.rates[ALONE])
    note = (
        "\nThe rows of `train-images-idx3-ubyte.gz`, with their labels as payload, into a new index: by "
        "`hourglass.indexing.index` in a process that has its libraries loaded, and by `hourglass embed --to`, from "
        "the start of the program to its end; of its time a second or more is Python's and LanceDB's start, whatever "
        "the file, so that it is also given a file with the rows ten times. Beside them `Client.embed` of the rows in "
        f"memory. All take turns, {turns} each, the first another each time, client and server on one machine; ratios "
        "are medians of those within a turn. FLOAT32."
    )
    rows = []
    for what, of in measured.rates.items():
        median = f"{statistics.median(of):,.0f}"
        rows.append((what, median, f"{min(of):,.0f} to {max(of):,.0f}", f"{_ratio(measured.rates, what):.2f}"))
    return Table("Rows a second", note, ("", "median rows/s", "of all turns", "ratio"), rows)


def _killed(measured: Measured) -> Table:
    note = (
        "\nkill -9 when half of the 60,000 rows or more were in the index, and the same command again. wrong: rows "
        "whose embedding is not the server's."
    )
    rows = [(f"{k.at:,}", str(k.missing), str(k.doubled), str(k.wrong)) for k in measured.killed]
    return Table("Killed half way", note, ("killed with rows", "missing", "doubled", "wrong"), rows)


def _choice() -> Table:
    note = (
        "\n`python -m benchmarks.search_choice`: the same label precision, without the test images. Models fitted on "
        "50,000 of the training images, which are indexed; the other 10,000 ask (standard error about 0.003). Measured "
        f"above: `{CHOSEN}`."
    )
    found: Mapping[str, Mapping[str, float]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [(f"`{name}`" if "--" in name else name, *(f"{of[how]:.4f}" for how in _HOW)) for name, of in found.items()]
    return Table("How the model was chosen", note, ("model", *_HOW), rows)


def _ratio(rates: Mapping[str, Sequence[float]], what: str) -> float:
    return statistics.median(of / alone for of, alone in zip(rates[what], rates[ALONE], strict=True))


def _machine() -> str:
    packages = ", ".join(map(" ".join, versions(("torch", "onnxruntime", "lancedb", "numpy")).items()))
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{processor()}, {os.cpu_count()} cores, {packages}, commit {commit()}, {day}.\n"
