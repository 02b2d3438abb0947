"""What lies in Milvus, field by field.

    nextchunk_chunks             every chunk with its raw vector: the truth
    nextchunk_learned_VERSION    its vector in the space of a checkpoint: derived
    nextchunk_documents          one row a document that has chunks: derived, for listing
    nextchunk_records            what the store says about itself, and idempotency keys

Ids of chunks and documents never stand in an expression: rows are found by digests of them, so no
id needs quoting, whatever it holds. A digest of 128 bits takes the place of the id as primary key.

Shapes: D dimension.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from models.scoring import Floats
from service.errors import InvalidRequestError, MetadataTooLargeError, TextTooLongError
from service.milvus.filtering import SEARCH_LIMIT_BYTES, search_field
from service.rows import ChunkRow

PREFIX = "nextchunk"
CHUNKS, DOCUMENTS, RECORDS = f"{PREFIX}_chunks", f"{PREFIX}_documents", f"{PREFIX}_records"
LEARNED = f"{PREFIX}_learned_"
ABOUT = "about"
VARCHAR_LIMIT_BYTES = 65_535
ID_BYTES = 4096
KEY_BYTES, LISTED_KEY_BYTES = 32, 256
ID_PART_BYTES = 100
NO_VECTOR = np.array([1.0, 0.0], np.float32)
"""Milvus wants a vector in every table."""
ROWS_A_CALL = 1000
BYTES_A_CALL = 16 << 20
GRAPH = {"M": 16, "efConstruction": 200}

CHUNK_FIELDS = ["key", "id", "document_id", "position", "text", "metadata", "written", "vector"]


def key_of(name: str) -> str:
    """Digest of an id, by which its row is found."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def listed_key_of(document_id: str) -> str:
    """Primary key of a document, which sorts as its id does."""
    part = document_id.encode("utf-8", "surrogatepass")[:ID_PART_BYTES]
    return f"{part.hex()}.{key_of(document_id)}"


def learned_table(version: str) -> str:
    """The table of a checkpoint's space."""
    return LEARNED + "".join(letter if letter.isalnum() else "_" for letter in version)


def any_of(field: str, keys: Iterable[str]) -> str:
    """The expression that a field is one of some digests."""
    return f"{field} in [" + ",".join(f'"{key}"' for key in keys) + "]"


def none_of(field: str, keys: Iterable[str]) -> str:
    """The expression that it is not."""
    return f"{field} not in [" + ",".join(f'"{key}"' for key in keys) + "]"


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """A chunk as it was found."""

    key: str
    written: int
    """Version at which it was written."""
    chunk: ChunkRow


def check_chunks(chunks: Sequence[ChunkRow]) -> None:
    """Check what Milvus limits and the data folder does not.

    Raises:
        InvalidRequestError: If an id has too many bytes, as only an imported one can.
        TextTooLongError: If a text has too many bytes.
        MetadataTooLargeError: If metadata have too many bytes or values.
    """
    for place, chunk in enumerate(chunks):
        for name, value in (("id", chunk.id), ("document_id", chunk.document_id)):
            size = len(value.encode())
            if size > ID_BYTES:
                wanted = f"at most {ID_BYTES} bytes, which is what Milvus takes"
                raise InvalidRequestError(f"chunks.{place}.{name}", wanted, str(size))
        size = len(chunk.text.encode())
        if size > VARCHAR_LIMIT_BYTES:
            wanted = f"at most {VARCHAR_LIMIT_BYTES} bytes, which is what Milvus takes"
            raise TextTooLongError(f"chunks.{place}.text", wanted, str(size))
        size = len(orjson.dumps(chunk.metadata))
        if size > VARCHAR_LIMIT_BYTES:
            wanted = f"at most {VARCHAR_LIMIT_BYTES} bytes as JSON, which is what Milvus takes"
            raise MetadataTooLargeError(f"chunks.{place}.metadata", wanted, str(size))
        size = len(orjson.dumps(search_field(chunk.metadata)))
        if size > SEARCH_LIMIT_BYTES:
            wanted = (
                f"at most {SEARCH_LIMIT_BYTES} bytes of digests for filters (19 to 183 a value)"
            )
            raise MetadataTooLargeError(f"chunks.{place}.metadata", wanted, str(size))


def chunk_row(chunk: ChunkRow, written: int) -> dict[str, Any]:
    """A row of the chunks' table."""
    return {
        "key": key_of(chunk.id),
        "id": chunk.id,
        "document_id": chunk.document_id,
        "document_key": key_of(chunk.document_id),
        "position": chunk.position,
        "text": chunk.text,
        "metadata": orjson.dumps(chunk.metadata).decode(),
        "search": search_field(chunk.metadata),
        "written": written,
        "vector": chunk.vector_D,
    }


def learned_row(row: dict[str, Any], vector_D: Floats) -> dict[str, Any]:
    """A row of a learned table, of one of the chunks' table."""
    shared = ("key", "document_key", "position", "search", "written")
    return {**{name: row[name] for name in shared}, "vector": vector_D}


def document_row(document_id: str) -> dict[str, Any]:
    """A row of the documents' table."""
    return {
        "key": listed_key_of(document_id),
        "document_id": document_id,
        "document_key": key_of(document_id),
        "vector": NO_VECTOR,
    }


def record_row(key: str, body: dict[str, Any], written: int) -> dict[str, Any]:
    """A row of the records' table."""
    text = orjson.dumps(body).decode()
    return {"key": key, "body": text, "written": written, "vector": NO_VECTOR}


def stored(row: dict[str, Any]) -> StoredChunk:
    """Read a row of the chunks' table."""
    chunk = ChunkRow(
        id=row["id"],
        document_id=row["document_id"],
        position=row["position"],
        text=row["text"],
        metadata=orjson.loads(row["metadata"]),
        vector_D=np.array(row["vector"], np.float32),
    )
    return StoredChunk(key=row["key"], written=row["written"], chunk=chunk)


def schema_of(table: str, dimension: int) -> tuple[CollectionSchema, IndexParams]:
    """The fields of a table, and its index."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    indexes = MilvusClient.prepare_index_params()

    def text(name: str, size: int) -> None:
        schema.add_field(name, DataType.VARCHAR, max_length=size)

    key_bytes = LISTED_KEY_BYTES if table == DOCUMENTS else KEY_BYTES + 1
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=key_bytes)
    if table == RECORDS:
        text("body", VARCHAR_LIMIT_BYTES)
    if table in (CHUNKS, DOCUMENTS):
        text("document_id", ID_BYTES)
    if table != RECORDS:
        text("document_key", KEY_BYTES)
    if table == CHUNKS:
        text("id", ID_BYTES)
        text("text", VARCHAR_LIMIT_BYTES)
        text("metadata", VARCHAR_LIMIT_BYTES)
    if table not in (DOCUMENTS, RECORDS):
        schema.add_field("position", DataType.INT64)
        schema.add_field("search", DataType.JSON)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        indexes.add_index("vector", index_type="HNSW", metric_type="IP", params=GRAPH)
    else:
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=len(NO_VECTOR))
        indexes.add_index("vector", index_type="FLAT", metric_type="IP", params={})
    if table != DOCUMENTS:
        schema.add_field("written", DataType.INT64)
    return schema, indexes


def calls_of(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into what one call may carry."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = 4 * len(row["vector"]) + 2 * len(row.get("text", "")) + len(row.get("metadata", ""))
        if some and (len(some) == ROWS_A_CALL or size + more > BYTES_A_CALL):
            yield some
            some, size = [], 0
        some.append(row)
        size += more
    if some:
        yield some
