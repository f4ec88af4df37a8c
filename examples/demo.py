"""The main job, end to end, on real data: train -> export -> serve -> embed, denoise, score.

1,797 handwritten digits of 8 x 8 pixels, built in. A fifth is kept for looking at; of the rest the eights are left
out, so that no model has ever seen one. `make demo` runs this; the models stay in exported/.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from examples.serving import Serving, serving
from hourglass import Client

UNSEEN = 8
NOISE = 0.4  # standard deviation, as a share of the pixel range 0 to 16
SINGLE_CALLS = 200
FOLDER, EXPORTED = Path("runs/demo"), Path("exported")
PICTURE = FOLDER / "digits.png"
BASIC, DENOISING = "digits-basic", "digits-denoising"

console = Console(width=100)


@dataclass(frozen=True)
class Digits:
    """rows: float32 [n, 8, 8] in 0 to 16. labels: int [n]."""

    rows: np.ndarray
    labels: np.ndarray


def main() -> int:
    learn, look_at = split_digits()
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez(FOLDER / "digits.npz", X=learn.rows, y=learn.labels)
    fit(BASIC, "--variant", "basic")
    noise = ("--option", "noise=gaussian", "--option", f"noise_level={NOISE}")
    fit(DENOISING, "--variant", "denoising", *noise)
    with serving(EXPORTED) as server, Client(server.address) as client:
        works = ask(client, look_at)
        show_metrics(server)
    console.print(f"server stopped, exit code {server.process.returncode}; models in {EXPORTED}/, picture in {PICTURE}")
    return 0 if works and server.process.returncode == 0 else 1


def split_digits() -> tuple[Digits, Digits]:
    digits = load_digits()
    rows = digits.images.astype(np.float32)
    learn, look_at, learn_labels, look_at_labels = train_test_split(
        rows, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return Digits(learn, learn_labels), Digits(look_at, look_at_labels)


def fit(name: str, *settings: str) -> None:
    data = ("--data", str(FOLDER / "digits.npz"), "--label", "y", "--exclude-label", str(UNSEEN))
    command = ["fit", *data, "--name", name, "--exported", str(EXPORTED), *settings]
    console.rule(f"hourglass-train fit --name {name}")
    subprocess.run([sys.executable, "-m", "training", *command], check=True)


def ask(client: Client, digits: Digits) -> bool:
    """The three RPCs on rows that no model saw; whether denoising at least halves the error."""
    console.rule("hourglass-serve: embed, denoise, score")
    seen = digits.rows[digits.labels != UNSEEN]
    noisy = seen + NOISE * 16 * np.random.default_rng(0).standard_normal(seen.shape, dtype=np.float32)
    embeddings = client.embed(BASIC, digits.rows)
    denoised = client.denoise(DENOISING, noisy).values
    before, after = mean_squared_error(noisy, seen), mean_squared_error(denoised, seen)
    draw(PICTURE, {"noisy": noisy, "denoised": denoised, "clean": seen})

    table = Table("asked", "answered", show_header=True, min_width=90)
    table.add_row("Embed", f"{len(digits.rows)} rows -> {list(embeddings.values.shape)}, "
                  f"space {embeddings.model.embedding_space_id}")  # fmt: skip
    table.add_row("Denoise", f"mean squared error per pixel {before:.2f} -> {after:.2f}: "
                  f"{after / before:.2f} x the noise (asked: at most 0.50 x)")  # fmt: skip
    for model in (BASIC, DENOISING):
        scores = client.score(model, digits.rows)
        auroc = roc_auc_score(digits.labels == UNSEEN, scores.score)
        alarms = scores.is_anomaly[digits.labels != UNSEEN].mean()
        table.add_row(f"Score, {model}", f"AUROC {auroc:.3f} for the digit {UNSEEN}, never trained on; "
                      f"false alarms {alarms:.1%} (asked: {scores.false_alarm_rate:.1%})")  # fmt: skip
    table.add_row(
        "Score, one row a call", f"p50 {p50_milliseconds(client, digits.rows):.2f} ms over {SINGLE_CALLS} calls"
    )
    console.print(table)
    return after <= 0.5 * before


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a - b) ** 2, dtype=np.float64))


def p50_milliseconds(client: Client, rows: np.ndarray) -> float:
    seconds = []
    for i in range(SINGLE_CALLS):
        started = time.perf_counter()
        client.score(BASIC, rows[i % len(rows)][None])
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def show_metrics(server: Serving) -> None:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:  # noqa: S310  # our own server's, over http
        families = text_string_to_metric_families(answer.read().decode())
    table = Table("metric", "labels", "value", title=f"some of {server.metrics_url}", min_width=90)
    wanted = ("hourglass_requests_total", "hourglass_rows_total", "hourglass_model_info", "hourglass_queue_rows")
    for sample in (sample for family in families for sample in family.samples):
        if sample.name in wanted and sample.value:
            labels = " ".join(f"{key}={value}" for key, value in sample.labels.items() if "space" not in key)
            table.add_row(sample.name, labels, f"{sample.value:g}")
    console.print(table)


def draw(path: Path, lines: dict[str, np.ndarray], count: int = 12, zoom: int = 8) -> None:
    """One line of digits for each kind of rows, its name on the left."""
    size, margin = lines["clean"].shape[1] * zoom, 6
    picture = Image.new("L", (90 + count * (size + margin), len(lines) * (size + margin) + margin), 255)
    pen = ImageDraw.Draw(picture)
    for line, (name, rows) in enumerate(lines.items()):
        top = margin + line * (size + margin)
        pen.text((8, top + size // 2 - 8), name, fill=0, font=ImageFont.load_default(16))
        for column, row in enumerate(rows[:count]):
            pixels = (255 - np.clip(row, 0, 16) * (255 / 16)).astype(np.uint8)
            digit = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
            picture.paste(digit, (90 + column * (size + margin), top))
    picture.save(path)


if __name__ == "__main__":
    sys.exit(main())
