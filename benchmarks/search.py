"""`make bench-search`: what a served model's embeddings find, and how they get into an index; docs/search-benchmark.md.

fashion-mnist: 60,000 images indexed, 10,000 test images ask. The model is fitted anew, without labels, and served by a
process of its own; all embeddings are what its Embed RPC answers. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.decomposition import PCA

from benchmarks import search_page
from benchmarks.search_choice import CHOSEN, fit
from benchmarks.search_data import NEIGHBOURS, TEST, TRAIN, Images, pixels, precisions
from benchmarks.search_index import Indexing
from benchmarks.search_page import CANDIDATES, Measured
from examples.serving import serving
from hourglass import Client
from hourglass.contract.quantization import Encoding
from training.neighbours import nearest, recall, reranked

_MODEL = "fashion"
_TURNS = 5
_COPIES = 10
_Sides = tuple[np.ndarray, np.ndarray]  # of the index, and of the queries
_LATER = (0.0, 0.1, 0.3)  # seconds after half of the rows are there: while something else is being done each time


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.search", description=__doc__)
    data = os.environ.get("HOURGLASS_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None, help="folder with fashion-mnist/")
    parser.add_argument("--exported", type=Path, help="with the model `fashion`, rather than a fit; no page is written")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hourglass-search-") as folder:
        measured = _measured(parsed.data / "fashion-mnist", Path(folder), parsed.exported)
    tables = search_page.tables(measured)
    console = Console(width=100)
    for table in tables:
        console.print(table.rich())
    if parsed.exported is None:
        search_page.write(tables)
    return int(any(table.missed for table in tables))


def _measured(data: Path, folder: Path, exported: Path | None) -> Measured:
    indexed, asked = Images.read(data / TRAIN), Images.read(data / TEST)
    exported = exported or fit(data / TRAIN, CHOSEN, folder).parent.parent
    with serving(exported) as server, Client(server.address) as client:
        print("embedding", file=sys.stderr)
        plain, unit = (_embedded(client, indexed, asked, normalize) for normalize in (False, True))
        indexing = Indexing(server.address, _MODEL, data / TRAIN, indexed.rows, folder)
        many = folder / "many.npz"
        images, labels = indexed.rows.astype(np.uint8), indexed.labels
        np.savez(many, X=np.concatenate([images] * _COPIES), label=np.tile(labels, _COPIES))
        indexing.rates(many, _COPIES)  # what is loaded once
        turns = []
        for turn in range(1, _TURNS + 1):
            print(f"rows a second, turn {turn} of {_TURNS}", file=sys.stderr)
            turns.append(indexing.rates(many, _COPIES, turn))
        print("killed half way", file=sys.stderr)
        killed = [indexing.killed(number, plain["float32"][0], later) for number, later in enumerate(_LATER)]
    print("nearest neighbours", file=sys.stderr)
    label = {
        search_page.RAW: precisions(pixels(indexed), pixels(asked), indexed, asked),
        search_page.PCA: precisions(*_components(indexed, asked, plain["float32"][0].shape[1]), indexed, asked),
        search_page.EMBEDDING: precisions(*plain["float32"], indexed, asked),
    }
    rates = {what: [of[what] for of in turns] for what in turns[0]}
    return Measured(label, {"plain": _recalls(plain), "normalised": _recalls(unit)}, rates, killed)


def _embedded(client: Client, indexed: Images, asked: Images, normalize: bool) -> dict[str, _Sides]:
    """Of the index and of the queries, as they were served, by encoding."""

    def served(images: Images, encoding: Encoding) -> np.ndarray:
        return client.embed(_MODEL, images.rows, normalize=normalize, encoding=encoding).values

    return {encoding: (served(indexed, encoding), served(asked, encoding)) for encoding in search_page.ENCODINGS}


def _recalls(served: Mapping[str, _Sides]) -> Mapping[str, float]:
    floats, whole = served["float32"], served["int8"]
    exact = nearest(*floats, NEIGHBOURS)
    near = nearest(*served["binary"], max(CANDIDATES), lambda some: np.unpackbits(some, axis=1))
    found = {name: nearest(*served[name], NEIGHBOURS) for name in ("float16", "int8")}
    found["binary"] = near[:, :NEIGHBOURS]
    for count in CANDIDATES:
        found[search_page.reranked(count)] = reranked(near[:, :count], *whole, NEIGHBOURS)
    return {name: recall(these, exact, *floats) for name, these in found.items()}


def _components(indexed: Images, asked: Images, count: int) -> _Sides:
    pca = PCA(count, svd_solver="covariance_eigh").fit(pixels(indexed))

    def transformed(images: Images) -> np.ndarray:
        return np.asarray(pca.transform(pixels(images)), dtype=np.float32)

    return transformed(indexed), transformed(asked)


if __name__ == "__main__":
    sys.exit(main())
