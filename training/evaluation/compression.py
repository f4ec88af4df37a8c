"""What an embedding costs to keep, and what it keeps: beside PCA of as many bytes."""

from __future__ import annotations

import numpy as np

from training.evaluation.section import Numbers, Section, finite, shown, table
from training.evaluation.subject import Subject, mean_squared

_PRECISIONS = (np.float32, np.float16)


def measure(subject: Subject) -> Section:
    """On the tested part of the sample, which PCA did not learn from."""
    scaling, sample = subject.model.manifest.scaling, subject.sample
    tested, pca = sample.split.tested, sample.pca
    rows, scaled, flat = sample.data.rows[tested], sample.scaled[tested], sample.flat[tested]
    embeddings, components = subject.model.embed(rows), pca.transform(flat)
    row_bytes = _row_bytes(sample.data.rows)
    numbers: dict[str, float | Numbers | None] = {"row_bytes": row_bytes, "pca_rows": len(sample.pca_rows)}
    sizes = table("kept", "numbers", "bytes a row", "of the row", "squared error")
    sizes.add_row("the row", str(flat.shape[1]), f"{row_bytes:,}", "100%", "0")
    better: list[str] = []
    with np.errstate(over="ignore", invalid="ignore"):  # float16 ends at 65,504
        for precision in _PRECISIONS:
            name = np.dtype(precision).name
            kept, projected = (values.astype(precision) for values in (embeddings, components))
            repeated = scaling.unclipped(subject.model.decode(kept.astype(np.float32)))
            found = finite(mean_squared(scaled, repeated))
            by_pca = projected.astype(np.float64) @ pca.components_ + pca.mean_
            of_pca = finite(mean_squared(flat, by_pca))
            for what, values, mse in (("embedding", kept, found), ("PCA", projected, of_pca)):
                size = values[0].nbytes
                sizes.add_row(
                    f"{what} {name}", str(values.shape[1]), f"{size:,}", f"{size / row_bytes:.1%}", shown(mse)
                )
            numbers[name] = {
                "embedding_bytes": kept[0].nbytes,
                "embedding_mse": found,
                "pca_bytes": projected[0].nbytes,
                "pca_mse": of_pca,
            }
            if of_pca is not None and (found is None or of_pca < found):
                better.append(name)
    sentences = [f"Per feature, in scaled units, on {len(rows):,} rows. {sample.pca_learned}"]
    if embeddings.shape[1] >= flat.shape[1]:
        sentences.append("The embedding has as many numbers as the row, or more: it compresses nothing.")
    elif better:
        sentences.append(f"PCA loses less in as many bytes ({', '.join(better)}): to compress these rows, take PCA.")
    return Section("compression", numbers, (sizes,), tuple(sentences))


def _row_bytes(rows: np.ndarray) -> int:
    """Of one row as it is best kept: bytes where all numbers are whole and from 0 to 255, float32 elsewhere."""
    whole = rows.min() >= 0 and rows.max() <= 255 and bool((rows == np.floor(rows)).all())
    return int(rows[0].size) * (1 if whole else 4)
