"""What an index is: its record, kept with it, and its columns."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from hourglass.contract.quantization import Encoding
from hourglass.stores.errors import StoreError

IdType = Literal["int64", "string"]
PayloadType = Literal["bool", "int64", "float64", "string", "date", "timestamp", "timestamp_utc"]

ID, EMBEDDING, SPACE, DIGEST = "id", "embedding", "embedding_space_id", "row_digest"
# Of what a search answers.
ROW, QUERY_ID, RANK, DISTANCE = "row", "query_id", "rank", "distance"
QUERY = "_query"  # of what a store answers; no payload is called so
RESERVED = (ID, EMBEDDING, SPACE, DIGEST, ROW, QUERY_ID, RANK, DISTANCE)

DIGEST_BYTES = 16

TYPES: dict[PayloadType, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp_utc": pa.timestamp("us", tz="UTC"),
}
_STORED = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.float16(), "binary": pa.uint8()}
_TERMS = {
    "embedding_space_id": "of the embedding space {} (model {!r})",
    "encoding": "encoded as {}",
    "normalized": "{}",
    "scale": "of the scale {}",
    "embedding_size": "of {} numbers",
    "id_type": "under ids of {}",
    "payload": "with the columns {}",
}


class Record(BaseModel):
    """What the embeddings of an index are, and what stands beside them.

    scale: of int8, number = scale * value; None of the others. payload: the other columns, by name.
    """

    model_config = ConfigDict(frozen=True)

    hourglass_index: Literal[1] = 1  # first in the JSON: it is known by it
    model: str
    embedding_space_id: str
    encoding: Encoding
    normalized: bool
    scale: float | None
    embedding_size: int
    id_type: IdType
    payload: dict[str, PayloadType]

    @property
    def width(self) -> int:
        """How many values a stored embedding has: bytes where it is binary."""
        return -(-self.embedding_size // 8) if self.encoding == "binary" else self.embedding_size

    @property
    def fields(self) -> list[pa.Field]:
        """The id and the payload: what a search finds."""
        return [
            pa.field(ID, TYPES[self.id_type], nullable=False),
            *(pa.field(name, TYPES[kind]) for name, kind in self.payload.items()),
        ]

    @property
    def found(self) -> pa.Schema:
        """What a store answers."""
        return pa.schema([pa.field(QUERY, pa.int64()), pa.field(DISTANCE, pa.float64()), *self.fields])

    @property
    def schema(self) -> pa.Schema:
        """An index's columns. int8 is kept as whole numbers in half precision, which is exact, and which every store
        knows how to compare."""
        return pa.schema(
            [
                *self.fields,
                pa.field(EMBEDDING, pa.list_(pa.field("item", _STORED[self.encoding]), self.width), nullable=False),
                pa.field(SPACE, pa.string(), nullable=False),
                pa.field(DIGEST, pa.binary(DIGEST_BYTES), nullable=False),
            ]
        )

    def require(self, other: Record, index: str, remedy: str) -> None:
        """Raises StoreError where `other` does not go with this index."""
        for name in _TERMS:
            # The same embeddings may come from a model under another name.
            if getattr(self, name) != getattr(other, name):
                texts = name == "payload" and "string" in _where_different(self.payload, other.payload)
                files = "give a file of the same kind (CSV's columns are all texts, Parquet's have types), or "
                raise StoreError(
                    f"{index} holds embeddings {self._term(name)}, not {other._term(name)}: {files * texts}{remedy}"
                )

    def _term(self, name: str) -> str:
        value = getattr(self, name)
        if name == "embedding_space_id":
            return _TERMS[name].format(value, self.model)
        if name == "normalized":
            return "of length 1 (--normalize)" if value else "as they are"
        if name == "payload":
            return _TERMS[name].format(", ".join(f"{column} ({kind})" for column, kind in value.items()) or "(none)")
        return _TERMS[name].format(value)


def _where_different(one: dict[str, PayloadType], other: dict[str, PayloadType]) -> set[PayloadType]:
    """Types of columns that have another in the other; none where the columns are not the same."""
    if set(one) != set(other):
        return set()
    return {kind for name in one if one[name] != other[name] for kind in (one[name], other[name])}


def read(text: str | None, index: str) -> Record:
    """A kept record. Raises StoreError for what is none."""
    found = re.search(r'"hourglass_index":\s*(\d+)', text or "")
    if text is None or found is None:
        raise StoreError(f"{index} is there, but no index of hourglass: name another after '#'")
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        made = f"made by another version of hourglass (index version {found[1]}, not 1)"
        raise StoreError(
            f"{index} was {made if found[1] != '1' else 'damaged: its record does not hold together'}"
        ) from None
