"""What an embedding costs to keep, and what it keeps: beside PCA of as many bytes."""

from __future__ import annotations

import numpy as np

from hourglass.contract.schema import Schema
from training.evaluation.errors import Errors
from training.evaluation.section import Numbers, Section, finite, shown, table
from training.evaluation.subject import Subject

_PRECISIONS = (np.float32, np.float16)
_MOST_OF_A_BYTE = 255


def measure(subject: Subject) -> Section:
    """On the tested part of the sample, which PCA did not learn from."""
    model, sample = subject.model, subject.sample
    schema = model.manifest.row_schema
    categories = schema is not None and not schema.is_numeric
    tested, pca = sample.split.tested, sample.pca
    rows, flat = sample.data.rows[tested], sample.flat[tested]
    embeddings, components = model.embed(rows), pca.transform(flat)
    row_bytes, row_numbers = _row_bytes(sample.data.rows, schema), rows[0].size
    numbers: dict[str, float | Numbers | None] = {"row_bytes": row_bytes, "pca_rows": len(sample.pca_rows)}
    headers = ("numbers", "bytes a row", "of the row", "squared error", *["wrong categories"] * categories)
    sizes = table("kept", *headers)
    sizes.add_row("the row", str(row_numbers), f"{row_bytes:,}", "100%", "0", *["0%"] * categories)
    better: list[str] = []
    with np.errstate(over="ignore", invalid="ignore"):  # float16 ends at 65,504
        for precision in _PRECISIONS:
            name = np.dtype(precision).name
            kept, projected = (values.astype(precision) for values in (embeddings, components))
            by_pca = (projected.astype(np.float64) @ pca.components_ + pca.mean_).astype(np.float32)
            found = model.errors(rows, model.decode(kept.astype(np.float32)))
            of_pca = model.errors(rows, model.unscaled(by_pca.reshape(-1, *sample.scaled.shape[1:])))
            sides: dict[str, float | None] = {}
            for what, called, values, errors in (
                ("embedding", "embedding", kept, found),
                ("pca", "PCA", projected, of_pca),
            ):
                size, mse = values[0].nbytes, _mse(errors)
                share = [f"{errors.wrong:.1%}"] if errors.wrong is not None else []
                sizes.add_row(
                    f"{called} {name}", str(values.shape[1]), f"{size:,}", f"{size / row_bytes:.1%}", shown(mse), *share
                )
                sides |= {f"{what}_bytes": size, f"{what}_mse": mse}
                if errors.wrong is not None:
                    sides[f"{what}_wrong"] = errors.wrong
            numbers[name] = sides
            if _loses_less(of_pca, found):
                better.append(name)
    sentences = [f"Per feature, in scaled units, on {len(rows):,} rows. {sample.pca_learned}"]
    if embeddings.shape[1] >= row_numbers:
        sentences.append("The embedding has as many numbers as the row, or more: it compresses nothing.")
    elif better:
        sentences.append(f"PCA loses less in as many bytes ({', '.join(better)}): to compress these rows, take PCA.")
    return Section("compression", numbers, (sizes,), tuple(sentences))


def _mse(errors: Errors) -> float | None:
    return None if errors.mean_squared is None else finite(errors.mean_squared)


def _loses_less(one: Errors, other: Errors) -> bool:
    """Numbers, and categories."""
    sides = np.array([[_mse(errors), errors.wrong] for errors in (one, other)], dtype=np.float64)
    mine, its = np.nan_to_num(sides, nan=np.inf)  # float16 could not hold it
    return bool((mine <= its).all() and (mine < its).any())


def _row_bytes(rows: np.ndarray, schema: Schema | None) -> int:
    """Of one row as it is best kept: flags and codes of at most 255 categories as bytes, of more as two; numbers as
    bytes where all of them are whole and from 0 to 255, float32 elsewhere."""
    codes = [column for column in schema.columns if column.type != "numeric"] if schema else []
    taken = sum(1 if len(column.categories) <= _MOST_OF_A_BYTE else 2 for column in codes)
    if schema:
        rows = rows[..., [column.type == "numeric" for column in schema.columns]]
    whole = rows.size and rows.min() >= 0 and rows.max() <= _MOST_OF_A_BYTE and bool((rows == np.floor(rows)).all())
    return taken + int(rows[0].size) * (1 if whole else 4)
