"""Every variant, side by side on MNIST: writes docs/variants.md and its pictures.

    python -m examples.gallery --data FOLDER      (a folder with mnist/, as benchmarks use)

Each model is trained by `hourglass-train fit` and looked at through its exported ONNX graph; only the filters come from
the checkpoint. What runs/gallery/ has already is not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training import checkpoint
from training.autoencoder import Autoencoder, find
from training.fit import build
from training.run import Run

FOLDER, PAGE, IMAGES = Path("runs/gallery"), Path("docs/variants.md"), Path("docs/images")
PROBED = 5_000  # test images for the linear probe: half to learn from, half to be tested on
SHOWN = 10

console = Console(width=100)


@dataclass(frozen=True)
class Exhibit:
    """A variant, the settings it is shown with, and the advice of those who have used it."""

    variant: str
    settings: tuple[str, ...]
    choose: str


EXHIBITS = (
    Exhibit(
        "basic",
        (),
        "As the first thing to try, for embeddings and for anomaly scores: nothing to tune but the size of the neck.",
    ),
    Exhibit(
        "denoising",
        (),
        "When inputs come damaged and should be repaired, or when the embedding should not hang on single features.",
    ),
    Exhibit(
        "stacked",
        (),
        "When a deep network is to be trained from little data: each layer starts from something that already works.",
    ),
    Exhibit(
        "sparse",
        ("--embedding-dim", "200"),
        "When single units should mean something: each is silent for most rows and speaks for a part or a stroke.",
    ),
    Exhibit(
        "k_sparse",
        ("--embedding-dim", "1000", "--option", "k=25", "--option", "alpha=3"),
        "When the embedding should be sparse by construction, k numbers of many: for linear classifiers, for indices.",
    ),
    Exhibit(
        "contractive",
        (),
        "When the embedding should not change where the data do not: features for a classifier with few labels.",
    ),
    Exhibit(
        "vae",
        (),
        "When new rows are to be drawn, when the embedding should be smooth, or when a score in nats is wanted.",
    ),
    Exhibit(
        "beta_vae",
        (),
        "When single numbers of the embedding should each stand for one factor; pays with blurred reconstructions.",
    ),
    Exhibit(
        "annealed_beta_vae",
        (),
        "For the same aim, when the information in the embedding is to be set in nats rather than given a price.",
    ),
)


@dataclass(frozen=True)
class Shown:
    """What the page says of a variant."""

    exhibit: Exhibit
    objective: str
    embedding_size: int
    squared_error: float
    probe_accuracy: float


def main() -> int:
    parser = argparse.ArgumentParser("examples.gallery", description=__doc__)
    data = os.environ.get("HOURGLASS_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None, help="folder with mnist/")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", help="one variant; the page is not written")
    args = parser.parse_args()
    mnist = Path(args.data) / "mnist"
    images = read(mnist / "t10k-images-idx3-ubyte.gz", (28, 28))
    labels = read(mnist / "t10k-labels-idx1-ubyte.gz", ())
    shown = []
    for exhibit in EXHIBITS:
        if args.only in (None, exhibit.variant):
            shown.append(show(exhibit, mnist / "train-images-idx3-ubyte.gz", args.epochs, images, labels))
            console.print(shown[-1])
    if args.only is None:
        PAGE.write_text(page(shown, args.epochs), encoding="utf-8")
    return 0


def read(path: Path, row_shape: tuple[int, ...]) -> np.ndarray:
    """float32 [n, *row_shape]: every row of an idx file."""
    with gzip.open(path) as stream:
        data = stream.read()
    header = 4 + 4 * data[3]
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(-1, *row_shape).astype(np.float32)


def show(exhibit: Exhibit, train: Path, epochs: int, images: np.ndarray, labels: np.ndarray) -> Shown:
    name = exhibit.variant.replace("_", "-")
    if not (FOLDER / "exported" / name).is_dir():
        command = ["fit", "--data", str(train), "--name", name, "--variant", exhibit.variant, "--epochs", str(epochs)]
        folders = ["--exported", str(FOLDER / "exported"), "--runs", str(FOLDER / "runs")]
        subprocess.run([sys.executable, "-m", "training", *command, *folders, *exhibit.settings], check=True)
    published = max((FOLDER / "exported" / name).iterdir(), key=lambda folder: int(folder.name))
    session = onnxruntime.InferenceSession(str(published / "model.onnx"))
    embedding, reconstruction = session.run(["embedding", "reconstruction"], {"input": images[:PROBED]})
    model = trained(max((FOLDER / "runs" / name).iterdir()))
    draw(IMAGES / f"variant-{name}.png", images, reconstruction, filters(model), embedding, labels[:PROBED])
    half = PROBED // 2
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(embedding[:half], labels[:half])
    error = ((reconstruction - images[:PROBED]) / 255) ** 2
    return Shown(
        exhibit,
        model.objective,
        embedding.shape[1],
        float(error.reshape(PROBED, -1).sum(axis=1).mean()),
        float(probe.score(embedding[half:], labels[half:PROBED])),
    )


def trained(folder: Path) -> Autoencoder:
    run = Run.open(folder)
    model = build(run.config, (28, 28))
    checkpoint.load_best(run.checkpoint, model)
    return model


def filters(model: Autoencoder) -> np.ndarray:
    """[count, 28, 28]: what the first units look for; of the first layer that sees pixels."""
    first = next(value for value in model.state_dict().values() if value.ndim == 2 and value.shape[1] == 784)
    shown: np.ndarray = first[: 2 * SHOWN].reshape(-1, 28, 28).numpy()
    return shown


def draw(
    path: Path,
    images: np.ndarray,
    reconstruction: np.ndarray,
    weights: np.ndarray,
    embedding: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Left: test digits over their reconstructions, filters below. Right: the embedding's two principal axes."""
    size, gap, top = 42, 4, 20
    width = SHOWN * (size + gap)
    picture = Image.new("RGB", (width + 300, top * 3 + 4 * (size + gap) + 40), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    weights = signed(weights)
    captions = (
        ("digits, and what came back", ink(images[:SHOWN]), ink(reconstruction[:SHOWN])),
        ("filters", weights[:SHOWN], weights[SHOWN:]),
    )
    y = 4
    for caption, upper, lower in captions:
        pen.text((0, y), caption, fill="black", font=font)
        y += top
        for line in (upper, lower):
            for column, brightness in enumerate(line):
                picture.paste(tile(brightness, size), (column * (size + gap), y))
            y += size + gap
        y += 10
    pen.text((width + 30, 4), "embedding, two principal axes", fill="black", font=font)
    points = PCA(2).fit_transform(embedding)
    points = (points - np.quantile(points, 0.01, axis=0)) / np.ptp(np.quantile(points, (0.01, 0.99), axis=0), axis=0)
    colours = [
        "#4e79a7",
        "#f28e2b",
        "#e15759",
        "#76b7b2",
        "#59a14f",
        "#edc948",
        "#b07aa1",
        "#ff9da7",
        "#9c755f",
        "#79706e",
    ]
    for (u, v), label in zip(points[:2_000].clip(0, 1), labels[:2_000].astype(int), strict=False):
        x, y = width + 30 + u * 250, top + 6 + v * (picture.height - top - 20)
        pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colours[label])
    picture.save(path)


def ink(pixels: np.ndarray) -> np.ndarray:
    """0 to 255 -> white to black, clipped."""
    brightness: np.ndarray = 1 - (pixels / 255).clip(0, 1)
    return brightness


def signed(weights: np.ndarray) -> np.ndarray:
    """Zero is grey, the largest weight black or white."""
    brightness: np.ndarray = 0.5 + weights / (2 * np.abs(weights).max(axis=(1, 2), keepdims=True))
    return brightness


def tile(brightness: np.ndarray, size: int) -> Image.Image:
    grey = (255 * brightness).astype(np.uint8)
    return Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)


def page(shown: list[Shown], epochs: int) -> str:
    rows = "\n".join(
        f"| [`{one.exhibit.variant}`](#{one.exhibit.variant}) | {one.embedding_size} | {one.squared_error:.2f} "
        f"| {one.probe_accuracy:.1%} |"
        for one in shown
    )
    sections = "\n\n".join(
        f"## {one.exhibit.variant}\n\n"
        f"{find(one.exhibit.variant).summary[0].upper()}{find(one.exhibit.variant).summary[1:]}.\n\n"
        f"Minimises {one.objective}.\n\n"
        f"Shown: `--variant {' '.join((one.exhibit.variant, *one.exhibit.settings))}`.\n\n"
        f"**Choose it** {one.exhibit.choose[0].lower()}{one.exhibit.choose[1:]}\n\n"
        f"![{one.exhibit.variant}](images/variant-{one.exhibit.variant.replace('_', '-')}.png)"
        for one in shown
    )
    return f"""# The autoencoders, side by side

Written by `python -m examples.gallery --data FOLDER`: each variant with the settings named below it, at most
{epochs} epochs of MNIST's training images, one seed, looked at on test images that it never saw.

| variant | embedding | squared error per image | linear probe |
| --- | --- | --- | --- |
{rows}

Squared error: summed over 784 pixels in [0, 1]. Linear probe: test accuracy of logistic regression on the embeddings of
{PROBED // 2:,} other test images. Both are first looks, not the best a variant can do.

{sections}
"""


if __name__ == "__main__":
    sys.exit(main())
