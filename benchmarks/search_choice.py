"""Which model embeds fashion-mnist best for search, chosen without the test images.

    python -m benchmarks.search_choice --data FOLDER      (a folder with fashion-mnist/, as benchmarks use)

Each recipe is fitted on 50,000 of the training images, without labels. The other 10,000 ask for their neighbours among
them. Writes benchmarks/results/search-choice.json, which docs/search-benchmark.md shows; half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.search_data import TRAIN, Images, pixels, precisions
from training.evaluation.published import open_model

RESULTS = Path(__file__).parent / "results" / "search-choice.json"
RAW = "raw pixels"
_SIZE = "--embedding-dim 64"
_GAUSSIAN = f"--variant vae --network conv {_SIZE} --epochs 8 --option likelihood=gaussian --option variance="
CHOSEN = f"{_GAUSSIAN}0.02"
RECIPES = (
    f"--variant basic --hidden none {_SIZE} --epochs 12",
    f"--variant denoising {_SIZE} --epochs 12",
    f"--variant contractive {_SIZE} --epochs 12",
    f"--variant denoising --network conv {_SIZE} --epochs 8",
    f"--variant vae --network conv {_SIZE} --epochs 8",
    f"{_GAUSSIAN}0.01",
    CHOSEN,
    f"{_GAUSSIAN}0.05",
)
_QUERIES = 10_000


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.search_choice", description=__doc__)
    data = os.environ.get("HOURGLASS_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None, help="folder with fashion-mnist/")
    images = Images.read(parser.parse_args().data / "fashion-mnist" / TRAIN)
    order = np.random.default_rng(0).permutation(len(images.rows))
    asked, indexed = images.take(order[:_QUERIES]), images.take(order[_QUERIES:])
    found = {RAW: precisions(pixels(indexed), pixels(asked), indexed, asked)}
    print(f"{RAW}: {found[RAW]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, indexed.rows.astype(np.uint8))
        for recipe in RECIPES:
            model = open_model(fit(file, recipe, Path(folder)))
            found[recipe] = precisions(model.embed(indexed.rows), model.embed(asked.rows), indexed, asked)
            print(f"{recipe}: {found[recipe]}", flush=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def fit(file: Path, recipe: str, folder: Path) -> Path:
    """The published model's folder; under `folder`, as exported/fashion/VERSION."""
    command = [sys.executable, "-m", "training", "fit", "--data", str(file), "--name", "fashion", *recipe.split()]
    folders = ["--exported", str(folder / "exported"), "--runs", str(folder / "runs")]
    done = subprocess.run([*command, *folders], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
