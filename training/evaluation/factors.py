"""Whether each number of an embedding stands for one factor of the sprites."""

from __future__ import annotations

import numpy as np

from training import disentanglement
from training.disentanglement import Embeddings
from training.evaluation.section import Numbers, Section, shown, table
from training.evaluation.subject import SEED, Subject

# A tenth of the papers' points where a point costs 64 or 128 images, theirs where it costs one.
_POINTS, _TEST_POINTS, _IMAGES = 1_000, 500, 64
_DRAWN, _TEST_DRAWN = 10_000, 5_000


def measure(subject: Subject) -> Section:
    """On sprites drawn anew."""
    embeddings = Embeddings(lambda images: subject.model.embed(images.astype(np.float32)))
    few, many = (SEED, _POINTS, _TEST_POINTS, _IMAGES), (SEED, _DRAWN, _TEST_DRAWN)
    scores = {
        "higgins": disentanglement.higgins(embeddings, *few),
        "factor_vae": disentanglement.factor_vae(embeddings, *few),
        "mig": disentanglement.mig(embeddings, SEED, _DRAWN),
        "sap": disentanglement.sap(embeddings, *many),
    }
    points = f"{_POINTS:,} + {_TEST_POINTS:,} points of {_IMAGES}"
    sizes = {
        "higgins": f"{points} pairs",
        "factor_vae": f"{points} images",
        "mig": f"{_DRAWN:,} images",
        "sap": f"{_DRAWN:,} + {_TEST_DRAWN:,} images",
    }
    numbers: Numbers = {
        "points": {"fitted": _POINTS, "tested": _TEST_POINTS, "images": _IMAGES},
        "images": {"fitted": _DRAWN, "tested": _TEST_DRAWN},
        **scores,
    }
    shown_scores = table("score", "0 to 1", "measured on")
    for name, score in scores.items():
        shown_scores.add_row(name, shown(score), sizes[name])
    sentences = ["1 is best; chance is 0.2 for the first two, 0 for the others. Seeds differ as much as methods do."]
    if subject.model.manifest.prior is None:
        sentences.append("They take embeddings in units of a prior N(0, I): this model has none, so compare with care.")
    return Section("disentanglement", numbers, (shown_scores,), tuple(sentences))
