"""Reads and writes the tables.

A write goes to the chunks first, then to what is derived from them, then to the records; if it is
cut off, sending it again completes it. What is not one transaction here is told in docs/milvus.md.

Shapes: B queries, N chunks, D dimension.
"""

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from models.scoring import Floats
from service.errors import IndexUnavailableError, WrongDimensionError
from service.milvus.link import STRONG, Link
from service.milvus.tables import (
    ABOUT,
    CHUNK_FIELDS,
    CHUNKS,
    DOCUMENTS,
    LEARNED,
    RECORDS,
    StoredChunk,
    any_of,
    calls_of,
    chunk_row,
    document_row,
    key_of,
    listed_key_of,
    record_row,
    schema_of,
    stored,
)
from service.rows import ChunkRow, Kind, portions

KEYS_A_CALL = 5000
WALKED_AT_ONCE = 1000
LEAST_EF = 64
DISCOVER_EVERY_S = 1.0
MAKING_S = 30.0
"""Most seconds that making or loading a table may take: it is done once, and takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a search found."""

    key: str
    row: dict[str, Any]
    """The fields that were asked for."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What the store says about itself."""

    store_id: str = ""
    name: str = ""
    embedding_model: str = ""


class MilvusStore:
    """The tables of one database.

    Args:
        link: The connection.

    Raises:
        IndexUnavailableError: If Milvus is not there.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.about = About()
        self.dimension = 0
        """D; 0 while nothing has decided it."""
        self._tables: set[str] = set()
        """Those that are known to be there."""
        self._made: set[str] = set()
        """Those that were made, or loaded, for this store's own use."""
        self._discovered_s = -DISCOVER_EVERY_S
        self._version = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="milvus")
        self.discover()

    def close(self) -> None:
        """End, with the connection."""
        self.link.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def discover(self) -> None:
        """Look what another replica may have made."""
        self._discovered_s = time.monotonic()
        tables = set(self.link.call("list_collections"))
        if CHUNKS in tables and not self.dimension:
            # Whoever made them may have ended before they were loaded, and milvus-lite forgets
            # at its end what was.
            for table in (RECORDS, DOCUMENTS, CHUNKS):
                self._make("load_collection", table)
            described = self.link.call("describe_collection", CHUNKS)
            fields = {one["name"]: one for one in described["fields"]}
            self.about = self._read_about()
            self.dimension = int(fields["vector"]["params"]["dim"])
        self._tables = tables
        if self.dimension:
            # Before that, tables may be there that whoever makes them has not loaded yet; the same
            # goes for those of other replicas' models.
            own = self._made - {CHUNKS, DOCUMENTS, RECORDS}
            self.link.needed = (CHUNKS, DOCUMENTS, RECORDS, *sorted(own & tables))

    def look(self) -> None:
        """Discover if nothing is known yet, but not at every question."""
        if not self.dimension and time.monotonic() - self._discovered_s > DISCOVER_EVERY_S:
            self.discover()

    def create(self, kind: Kind, name: str = "") -> None:
        """Make the tables of a store whose dimension is decided now, if they are not there.

        Raises:
            WrongDimensionError: If another replica has decided otherwise.
        """
        with self._lock:
            if not self.dimension:
                self.discover()
            if not self.dimension:
                for table in (RECORDS, DOCUMENTS):
                    self.make_table(table, 0)
                about = {"store_id": uuid.uuid4().hex, "name": name}
                about["embedding_model"] = kind.embedding_model
                self.put(RECORDS, [record_row(ABOUT, about, 0)])
                self.make_table(CHUNKS, kind.dimension)
                self._wait([(RECORDS, ABOUT)])
                self.discover()
        if kind.dimension != self.dimension:
            raise WrongDimensionError(
                "chunks.0.vector", f"{self.dimension} numbers", str(kind.dimension)
            )

    def make_table(self, table: str, dimension: int) -> None:
        """Make a table with its index and load it, or what is missing of that.

        Step by step, since whoever did it before may have been cut off anywhere, and another
        replica may be at it now.
        """
        schema, indexes = schema_of(table, dimension)
        if table not in self._tables and not self._is_there(table):
            try:
                self._make("create_collection", table, schema=schema, consistency_level="Bounded")
            except IndexUnavailableError:
                if not self._is_there(table):
                    raise
        if not self.link.call("list_indexes", table):
            # Nothing need be waited for: loading waits for the index.
            self._make("create_index", table, indexes, sync=False)
        self._make("load_collection", table)
        self._tables = self._tables | {table}
        self._made = self._made | {table}

    def _is_there(self, table: str) -> bool:
        return bool(self.link.call("has_collection", table))

    def _make(self, method: str, table: str, *args: Any, **named: Any) -> None:
        self.link.call(method, table, *args, timeout=MAKING_S, **named)

    @property
    def learned_tables(self) -> list[str]:
        """Tables of learned spaces, whichever replica serves them."""
        return sorted(table for table in self._tables if table.startswith(LEARNED))

    def next_version(self, count: int = 1) -> int:
        """The version of a write that comes now, or of what a question sees: microseconds.

        Args:
            count: How many there are to be in a row, of which this is the first.
        """
        with self._lock:
            first = max(self._version + 1, time.time_ns() // 1000)
            self._version = first + count - 1
            return first

    def fetch(self, keys: Sequence[str], level: str = "") -> list[StoredChunk]:
        """Read chunks by their keys, in no order; those that are not there are left out."""
        found: list[StoredChunk] = []
        for some in portions(keys, KEYS_A_CALL):
            found += map(stored, self.query(CHUNKS, any_of("key", some), CHUNK_FIELDS, level))
        return found

    def of_documents(self, document_ids: Iterable[str], level: str = "") -> list[StoredChunk]:
        """Read all chunks of some documents, each in the order of positions."""
        expression = any_of("document_key", map(key_of, document_ids))
        found = map(stored, self.query(CHUNKS, expression, CHUNK_FIELDS, level))
        return sorted(found, key=_in_document)

    def query(
        self, table: str, expression: str, fields: Sequence[str], level: str = ""
    ) -> list[dict[str, Any]]:
        """Read the rows of a table that an expression is true of."""
        return list(
            self.link.call(
                "query",
                table,
                filter=expression,
                output_fields=list(fields),
                consistency_level=level or self.link.level,
            )
        )

    def count(self, table: str, level: str = "") -> int:
        """Count the rows of a table."""
        return int(self.query(table, "", ["count(*)"], level)[0]["count(*)"])

    def search(
        self, table: str, query_BD: Floats, expression: str, limit: int, fields: Sequence[str]
    ) -> list[list[Hit]]:
        """Find the nearest rows of each query, best first."""
        found = self.link.call(
            "search",
            table,
            data=list(query_BD),
            filter=expression,
            limit=limit,
            output_fields=list(fields),
            search_params={"params": {"ef": max(LEAST_EF, 2 * limit)}},
            consistency_level=self.link.level,
        )
        return [[Hit(key=one["key"], row=one["entity"]) for one in hits] for hits in found]

    def walk(self, table: str, fields: Sequence[str], expression: str = "") -> Iterator[Any]:
        """Walk the rows of a table in the order of keys, in lists, with every write before it."""
        # An iterator takes the table's own level, whichever it is given: pages read right after a
        # write lacked up to all of it. What a strong read has waited for, they have.
        self._wait([(table, "")])
        rows = self.link.call(
            "query_iterator",
            table,
            batch_size=WALKED_AT_ONCE,
            filter=expression,
            output_fields=list(fields),
        )
        last = ""
        try:
            while some := self.link.guarded("walking", rows.next):
                keys = [row["key"] for row in some]
                if keys != sorted(keys) or keys[0] <= last:
                    raise RuntimeError(f"{table}: Milvus gave keys in no order")
                last = keys[-1]
                yield some
        finally:
            rows.close()

    def put_chunks(
        self, chunks: Sequence[ChunkRow], written: int, *, apart: int = 0
    ) -> list[dict[str, Any]]:
        """Write chunks, and the documents that they belong to.

        Args:
            chunks: At least one.
            written: Version of the first.
            apart: By how much that of each other is later; those of one position keep their order.

        Returns:
            Their rows.
        """
        rows = [chunk_row(chunk, written + apart * place) for place, chunk in enumerate(chunks)]
        self.put(CHUNKS, rows)
        # After the chunks: whoever deletes a document looks again after it has done so.
        names = dict.fromkeys(chunk.document_id for chunk in chunks)
        self.put(DOCUMENTS, [document_row(name) for name in names])
        return rows

    def put(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows, in calls of a size that Milvus takes."""
        for some in calls_of(rows):
            self.link.call("upsert", table, data=some)

    def rows_of(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Read what a learned table is made from."""
        fields = ["key", "document_key", "position", "search", "written", "vector"]
        return self.query(CHUNKS, any_of("key", keys), fields, STRONG)

    def versions_of(self, keys: Sequence[str]) -> dict[str, int]:
        """Read at which version each chunk was written; those that are not there are left out."""
        found = self.query(CHUNKS, any_of("key", keys), ["key", "written"], STRONG) if keys else []
        return {row["key"]: row["written"] for row in found}

    def differences(self, table: str) -> tuple[list[str], list[str]]:
        """Compare a learned table with the chunks.

        Returns:
            Keys of chunks that it lacks or has of an earlier write, and keys that it has too many.
        """
        fields = ["key", "written"]
        theirs = {row["key"]: row["written"] for some in self.walk(table, fields) for row in some}
        lacking = []
        for some in self.walk(CHUNKS, fields):
            lacking += [one["key"] for one in some if theirs.pop(one["key"], -1) != one["written"]]
        return lacking, list(theirs)

    def drop_keys(self, table: str, keys: Sequence[str]) -> None:
        """Delete rows of a table."""
        for some in portions(keys, KEYS_A_CALL):
            self.link.call("delete", table, filter=any_of("key", some))

    def delete_chunks(self, ids: Sequence[str]) -> int:
        """Delete chunks, and the documents that have none left.

        Returns:
            How many there were.
        """
        keys = [key_of(name) for name in ids]
        found: list[dict[str, Any]] = []
        for some in portions(keys, KEYS_A_CALL):
            found += self.query(CHUNKS, any_of("key", some), ["key", "document_id"], STRONG)
        if not found:
            return 0
        for table in (CHUNKS, *self.learned_tables):
            self.drop_keys(table, [row["key"] for row in found])
        self.forget_documents({row["document_id"] for row in found})
        return len(found)

    def replaced(self, ids: Sequence[str], documents: set[str]) -> set[str]:
        """Other documents than these that chunks are in now, before they are written again."""
        keys = [key_of(name) for name in ids]
        found = self.query(CHUNKS, any_of("key", keys), ["document_id"])
        return {row["document_id"] for row in found} - documents

    def record(self, key: str, level: str) -> dict[str, Any] | None:
        """Read a record."""
        if RECORDS not in self._tables:
            return None
        found = self.query(RECORDS, any_of("key", [key]), ["body"], level)
        return dict(orjson.loads(found[0]["body"])) if found else None

    def put_record(self, key: str, body: dict[str, Any], written: int) -> None:
        """Write a record."""
        self.put(RECORDS, [record_row(key, body, written)])

    def drop_records(self, before: int) -> None:
        """Delete the records of writes before a version, but for what is not of a write."""
        self.link.call("delete", RECORDS, filter=f"written > 0 and written < {before}")

    def wait_for(self, key: str, learned: Sequence[str], document_id: str, record: str) -> None:
        """Wait until a write can be found in every table, by every replica.

        Args:
            key: Of its last chunk.
            learned: Tables that have it, too.
            document_id: Of the last chunk.
            record: Key of its record; empty if it has none.
        """
        rows = [(table, key) for table in (CHUNKS, *learned)]
        rows.append((DOCUMENTS, listed_key_of(document_id)))
        self._wait([*rows, (RECORDS, record)] if record else rows)

    def _wait(self, rows: Sequence[tuple[str, str]]) -> None:
        # A strong read returns when whoever answers for the table has seen all writes before it.
        reads = [
            self._pool.submit(self.query, table, any_of("key", [key]), ["key"], STRONG)
            for table, key in rows
        ]
        for read in reads:
            read.result()

    def forget_documents(self, names: set[str]) -> None:
        """Delete the rows of documents that have no chunks any more."""
        gone = names - self._having_chunks(names) if names else set()
        if not gone:
            return
        self.drop_keys(DOCUMENTS, [listed_key_of(name) for name in gone])
        # Chunks that another replica has written meanwhile, and whose document was listed before.
        back = self._having_chunks(gone)
        self.put(DOCUMENTS, [document_row(name) for name in sorted(back)])

    def _having_chunks(self, names: set[str]) -> set[str]:
        expression = any_of("document_key", map(key_of, sorted(names)))
        found = self.query(CHUNKS, expression, ["document_id"], STRONG)
        return {row["document_id"] for row in found}

    def _read_about(self) -> About:
        found = self.query(RECORDS, any_of("key", [ABOUT]), ["body"], STRONG)
        return About(**orjson.loads(found[0]["body"])) if found else About()


def _in_document(one: StoredChunk) -> tuple[str, int, int, str]:
    return one.chunk.document_id, one.chunk.position, one.written, one.chunk.id
