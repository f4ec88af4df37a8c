"""Vector search, end to end: train -> serve -> `hourglass embed --to` -> `hourglass search` -> a picture.

Handwritten digits, built in; or the clothes of fashion-mnist, with --data FOLDER (of fashion-mnist/) or
HOURGLASS_DATA. The model never sees a label: labels say which neighbours are right. `make search-demo` runs this; all
of it is in runs/search.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from examples.demo import split_digits
from examples.gallery import read
from examples.serving import serving

FOLDER = Path("runs/search")
NEIGHBOURS = 10
# What found most neighbours with the same label: docs/search-benchmark.md.
_VAE = ("--variant", "vae", "--option", "likelihood=gaussian", "--option", "variance=0.02")
_ASKED = 500  # images, at most; of each label the first one is drawn
_TILE, _FRAME, _GAP, _TEXT = 56, 3, 8, 34
_RIGHT, _WRONG = "#2e8b57", "#d62728"

console = Console(width=100)


@dataclass(frozen=True)
class Set:
    """indexed: the file whose images are indexed, its labels under `label`; shown, asked: images, [n, height, width],
    of that file and others, from 0 to `white`; labels: int [n], of those that ask; names: what labels are called."""

    name: str
    indexed: Path
    label: str
    shown: np.ndarray
    asked: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    white: int
    settings: str


def main() -> int:
    parser = argparse.ArgumentParser("examples.search", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HOURGLASS_DATA"), help="folder of fashion-mnist/")
    parsed = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)  # another model: another embedding space, and another index
    FOLDER.mkdir(parents=True)
    images = fashion(Path(parsed.data) / "fashion-mnist") if parsed.data else digits()
    exported, index, found = FOLDER / "exported", f"lancedb://{FOLDER}/vectors#{images.name}", FOLDER / "found.parquet"
    asked = FOLDER / "asked.npy"
    np.save(asked, images.asked)
    folders = ("--exported", str(exported), "--runs", str(FOLDER / "runs"))
    settings = (*_VAE, *images.settings.split(), *folders)
    run("training", "fit", "--data", str(images.indexed), "--name", images.name, *settings)
    with serving(exported) as server:
        console.rule(f"hourglass-serve --exported {exported}")
        where = ("--server", server.address)
        payload = ("--payload", images.label, "--normalize")
        run("hourglass", "embed", str(images.indexed), "--model", images.name, *payload, "--to", index, *where)
        run("hourglass", "search", str(asked), "--in", index, "-k", str(NEIGHBOURS), "--out", str(found), *where)
    table = pq.read_table(found)
    shape = (len(images.asked), NEIGHBOURS)
    ids, labels, distances = (table[name].to_numpy().reshape(shape) for name in ("id", images.label, "distance"))
    right = labels == images.labels[:, None]
    picture = FOLDER / f"{images.name}.png"
    draw(picture, images, ids, labels, distances)
    console.print(f"{right.mean():.1%} of the neighbours of {len(right)} images have the label of the image.")
    console.print(f"picture in {picture}, index in {FOLDER / 'vectors'}")
    return 0


def digits() -> Set:
    indexed, asked = split_digits()
    file = FOLDER / "digits.npz"
    np.savez(file, X=indexed.rows, y=indexed.labels)
    names = [str(digit) for digit in range(10)]
    settings = "--hidden none --embedding-dim 32"
    return Set("digits", file, "y", indexed.rows, asked.rows[:_ASKED], asked.labels[:_ASKED], names, 16, settings)


def fashion(folder: Path) -> Set:
    file, shape = folder / "train-images-idx3-ubyte.gz", (28, 28)
    asked, labels = (
        read(folder / f"t10k-{what}-ubyte.gz", rest) for what, rest in (("images-idx3", shape), ("labels-idx1", ()))
    )
    names = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    settings = "--network conv --embedding-dim 64 --epochs 3"
    return Set("fashion", file, "label", read(file, shape), asked[:_ASKED], labels[:_ASKED], names, 255, settings)


def run(program: str, *arguments: str) -> None:
    names = {"training": "hourglass-train", "hourglass": "hourglass"}
    console.print()
    console.print(names[program], *arguments, soft_wrap=True, style="bold")
    subprocess.run([sys.executable, "-m", program, *arguments], check=True)


def draw(path: Path, images: Set, ids: np.ndarray, labels: np.ndarray, distances: np.ndarray) -> None:
    """The first image asked for of each label, and its neighbours: their distances, and labels, green where right."""
    chosen = [int(np.flatnonzero(images.labels == label)[0]) for label in range(len(images.names))]
    wide, high = _TILE + 2 * _FRAME + _GAP, _TILE + 2 * _FRAME + _TEXT
    left = wide + 24
    picture = Image.new("RGB", (left + NEIGHBOURS * wide + _GAP, 24 + len(chosen) * high), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    pen.text((_GAP, 6), "asked", fill="black", font=font)
    pen.text((left, 6), "nearest: label and distance, red where the label is another", fill="black", font=font)

    def tile(x: int, y: int, image: np.ndarray, colour: str, text: str) -> None:
        pen.rectangle((x, y, x + _TILE + 2 * _FRAME - 1, y + _TILE + 2 * _FRAME - 1), fill=colour)
        grey = (255 - image.clip(0, images.white) * (255 / images.white)).astype(np.uint8)
        picture.paste(Image.fromarray(grey).resize((_TILE, _TILE), Image.Resampling.NEAREST), (x + _FRAME, y + _FRAME))
        middle = (x + _FRAME + _TILE / 2, y + _TILE + 2 * _FRAME + 2)
        pen.multiline_text(middle, text, fill=colour, font=font, anchor="ma", align="center", spacing=1)

    for line, row in enumerate(chosen):
        top = 24 + line * high
        tile(_GAP, top, images.asked[row], "#444444", images.names[int(images.labels[row])])
        for place in range(NEIGHBOURS):
            colour = _RIGHT if labels[row, place] == images.labels[row] else _WRONG
            text = f"{images.names[int(labels[row, place])]}\n{distances[row, place]:.2f}"
            tile(left + place * wide, top, images.shown[ids[row, place]], colour, text)
    picture.quantize(64).save(path, optimize=True)  # greys, and three colours


if __name__ == "__main__":
    sys.exit(main())
