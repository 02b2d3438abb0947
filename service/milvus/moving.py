"""All chunks out of one place and into another, in memory that does not grow with them.

A place is a data folder or a Milvus; at least one of the two is a Milvus. Everything that can be
refused is refused before anything is written. What is written into a folder is one transaction;
into Milvus it is many writes, and moving again with ``merge`` completes what was cut off.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.archive import Watch, unwatched
from service.errors import FieldError
from service.folder import DataFolder
from service.milvus.link import STRONG, Link
from service.milvus.store import MilvusStore
from service.milvus.tables import CHUNKS, DOCUMENTS, RECORDS, check_chunks, key_of
from service.rows import ChunkRow, Kind, StoreInfo
from service.settings import Settings
from service.store import STORE_FILE, Store

WRITTEN_AT_ONCE = 500
READ_AT_ONCE = 200
"""Of the longest texts and vectors that Milvus takes, half of what it answers at once."""
FLUSH_TIMEOUT_S = 600.0
_HEAD = ("document_id", "position", "written", "id", "key")


class MoveError(ValueError):
    """Chunks cannot be moved, or not all of them were; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a place says about itself."""

    chunks: int
    dimension: int
    """D; 0 while nothing has decided it."""
    embedding_model: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where chunks come from."""

    shown: str
    holding: Holding
    walk: Callable[[], Iterator[ChunkRow]]
    """Walks all of them; each time the same ones."""
    limited: bool
    """Whether nothing in it can be too much for Milvus."""


class Target(Protocol):
    """Where chunks go."""

    @property
    def shown(self) -> str:
        """Its name for people."""

    @property
    def limited(self) -> bool:
        """Whether it takes less than a folder."""

    def holding(self) -> Holding:
        """What it holds now."""

    def write(self, chunks: Iterator[ChunkRow], kind: Kind, name: str) -> int:
        """Write chunks.

        Returns:
            How many of them replaced another.
        """


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What was moved."""

    chunks: int
    replaced: int
    """Those of them that took the place of another."""
    held: int
    """Chunks that the target holds now."""


def move(source: Source, target: Target, *, merge: bool, watch: Watch = unwatched) -> Moved:
    """Write all chunks of one place into another, and count them there.

    Args:
        source: Is only read.
        target: Must be empty, unless ``merge``.
        merge: Keep the target's chunks of other ids, and replace those of the same.
        watch: Sees each chunk when it is ``checked``, and when it is ``written``.

    Raises:
        MoveError: If they cannot be moved, or others are there afterwards than should be.
        StoreError: If a folder's store is damaged or cannot be written.
        IndexUnavailableError: If a Milvus does not answer.
    """
    found, before = source.holding, target.holding()
    if not found.chunks:
        raise MoveError(f"{source.shown}: holds no chunks; nothing was changed")
    _check_kind(source, target.shown, before)
    if before.chunks and not merge:
        raise MoveError(
            f"{target.shown}: holds {before.chunks} chunks; --merge keeps those with other ids and "
            "replaces those with the same"
        )
    if target.limited and not source.limited:
        for chunk in watch(source.walk(), "checked"):
            _check(chunk)
    kind = Kind(dimension=found.dimension, embedding_model=found.embedding_model)
    moved = _Counting(watch(source.walk(), "written"))
    replaced = target.write(iter(moved), kind, found.name)
    held = target.holding().chunks
    if held != before.chunks + moved.count - replaced:
        raise MoveError(
            f"{target.shown}: held {before.chunks} chunks, was given {moved.count}, of which "
            f"{replaced} replace others, and now holds {held}; is it written to meanwhile?"
        )
    return Moved(chunks=moved.count, replaced=replaced, held=held)


@contextlib.contextmanager
def folder_source(data: Path) -> Iterator[Source]:
    """Read a data folder, as it stands at one moment; a service may run on it."""
    with (
        contextlib.closing(Store(data / STORE_FILE, read_only=True)) as store,
        store.at_one_moment() as (info, walk),
    ):
        yield Source(shown=str(data), holding=_told_by(info), walk=walk, limited=False)


@contextlib.contextmanager
def milvus_source(settings: Settings) -> Iterator[Source]:
    """Read a Milvus, to which no one writes meanwhile."""
    with contextlib.closing(MilvusStore(Link.from_settings(settings))) as store:
        holding = _holding_of(store)
        yield Source(
            shown=store.link.place.shown,
            holding=holding,
            walk=lambda: _in_order(store, holding.chunks),
            limited=True,
        )


@contextlib.contextmanager
def folder_target(data: Path) -> Iterator[Target]:
    """Write to a data folder, which no one else uses meanwhile."""
    with DataFolder(data):
        yield _Folder(data / STORE_FILE)


@contextlib.contextmanager
def milvus_target(settings: Settings) -> Iterator[Target]:
    """Write to a Milvus."""
    with contextlib.closing(MilvusStore(Link.from_settings(settings))) as store:
        yield _Milvus(store)


class _Folder:
    limited = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = str(path.parent)

    def holding(self) -> Holding:
        if not self._path.exists():
            return Holding(chunks=0, dimension=0, embedding_model="", name="")
        with contextlib.closing(Store(self._path, read_only=True)) as store:
            return _told_by(store.info())

    def write(self, chunks: Iterator[ChunkRow], kind: Kind, name: str) -> int:
        with contextlib.closing(Store(self._path, create=True)) as store:
            return store.merge(chunks, kind=kind, name=name)


class _Milvus:
    limited = True

    def __init__(self, store: MilvusStore) -> None:
        self._store = store
        self.shown = store.link.place.shown

    def holding(self) -> Holding:
        return _holding_of(self._store)

    def write(self, chunks: Iterator[ChunkRow], kind: Kind, name: str) -> int:
        store, replaced = self._store, 0
        store.create(kind, name)
        fresh = not store.count(CHUNKS, STRONG)
        while some := list(itertools.islice(chunks, WRITTEN_AT_ONCE)):
            if fresh:
                self._put(some)
            else:
                replaced += self._replace(some)
        for table in (CHUNKS, DOCUMENTS, RECORDS):
            # Sealed now, so that they are indexed now and not when the first question comes.
            store.link.call("flush", table, timeout=FLUSH_TIMEOUT_S)
        return replaced

    def _put(self, chunks: list[ChunkRow]) -> None:
        self._store.put_chunks(chunks, self._store.next_version(len(chunks)), apart=1)

    def _replace(self, chunks: list[ChunkRow]) -> int:
        store = self._store
        there = [
            one
            for start in range(0, len(chunks), READ_AT_ONCE)
            for one in store.fetch(
                [key_of(chunk.id) for chunk in chunks[start : start + READ_AT_ONCE]], STRONG
            )
        ]
        if there:
            # Vectors of what they were; whoever serves that checkpoint makes those of what they
            # will be, since they are missing.
            for table in store.learned_tables:
                store.drop_keys(table, [one.key for one in there])
        self._put(chunks)
        store.forget_replaced(there, {chunk.document_id for chunk in chunks})
        return len(there)


class _Counting:
    """Counts what is walked."""

    def __init__(self, chunks: Iterator[ChunkRow]) -> None:
        self._chunks = chunks
        self.count = 0

    def __iter__(self) -> Iterator[ChunkRow]:
        for chunk in self._chunks:
            self.count += 1
            yield chunk


def _in_order(store: MilvusStore, expected: int) -> Iterator[ChunkRow]:
    """Walk all chunks, documents in the order of their ids and each in that of positions.

    The table of the chunks alone says which there are. It is walked in the order of digests and,
    without texts and vectors, put into another order in a file of SQLite's own, so that neither
    the ids of all nor the texts of one document need fit into memory.
    """
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as heads:
        heads.execute(f"CREATE TABLE heads ({', '.join(_HEAD)})")
        heads.execute("BEGIN")
        for some in store.walk(CHUNKS, _HEAD):
            rows = (tuple(row[name] for name in _HEAD) for row in some)
            heads.executemany("INSERT INTO heads VALUES (?, ?, ?, ?, ?)", rows)
        walked = int(heads.execute("SELECT count(*) FROM heads").fetchone()[0])
        if walked != expected:
            raise MoveError(_changed(store, f"{walked} chunks were found, and {expected} counted"))
        found = heads.execute(f"SELECT key FROM heads ORDER BY {', '.join(_HEAD)}")
        while keys := [key for (key,) in found.fetchmany(READ_AT_ONCE)]:
            chunks = {one.key: one.chunk for one in store.fetch(keys, STRONG)}
            if len(chunks) != len(keys):
                raise MoveError(_changed(store, f"{len(keys) - len(chunks)} chunks are gone"))
            yield from (chunks[key] for key in keys)
    now = store.count(CHUNKS, STRONG)
    if now != expected:
        raise MoveError(_changed(store, f"{now} chunks are there, and {expected} were read"))


def _changed(store: MilvusStore, what: str) -> str:
    return f"{store.link.place.shown}: {what}; is it written to meanwhile? Nothing can be trusted"


def _holding_of(store: MilvusStore) -> Holding:
    return Holding(
        chunks=store.count(CHUNKS, STRONG) if store.dimension else 0,
        dimension=store.dimension,
        embedding_model=store.about.embedding_model,
        name=store.about.name,
    )


def _told_by(info: StoreInfo) -> Holding:
    return Holding(
        chunks=info.chunks,
        dimension=info.dimension or 0,
        embedding_model=info.embedding_model,
        name=info.name,
    )


def _check_kind(source: Source, target: str, held: Holding) -> None:
    found = source.holding
    for what, own, other in (
        ("dimension", found.dimension, held.dimension),
        ("embedding model", found.embedding_model, held.embedding_model),
    ):
        if own and other and own != other:
            raise MoveError(f"{source.shown}: its {what} is {own}, that of {target} {other}")


def _check(chunk: ChunkRow) -> None:
    try:
        check_chunks([chunk])
    except FieldError as error:
        about = error.members
        name = about["field"].removeprefix("chunks.0.")
        raise MoveError(
            f"chunk {chunk.id[:200]!r}: {name}: expected {about['expected']}, got "
            f"{about['actual']}; nothing was changed"
        ) from error
