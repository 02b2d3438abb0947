"""One portable file that holds a whole store, and is read by anything that reads zip files.

    chunks.jsonl   one chunk a line: id, document_id, position, text, metadata
    vectors.npy    (N, D) float32 unit rows, in the order of chunks.jsonl
    manifest.json  format, counts, what the vectors are, size and sha256 of the other two

It is written and read as a stream, in memory that does not grow with it.

Shapes: N chunks, D dimension.
"""

import contextlib
import hashlib
import io
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import orjson

from models.scoring import Floats
from service.rows import ChunkRow, StoreError, StoreInfo, are_unit
from service.store import Store

FORMAT = "nextchunk-archive"
FORMAT_VERSION = 1
MANIFEST, CHUNKS, VECTORS = "manifest.json", "chunks.jsonl", "vectors.npy"
MANIFEST_LIMIT_BYTES = 1 << 20
BLOCK_BYTES = 1 << 22
BUFFER_BYTES = 1 << 16
# The same store gives the same bytes, whenever it is exported.
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_KINDS = {"id": str, "document_id": str, "position": int, "text": str, "metadata": dict}

Watch = Callable[[Iterator[ChunkRow], str], Iterator[ChunkRow]]
"""Passes chunks on while they are being ``written``, ``checked`` and so on."""


class ArchiveError(ValueError):
    """An archive is damaged, foreign, or does not fit the store; the message says where."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive says about itself."""

    name: str
    """Of the store."""
    chunks: int
    dimension: int | None
    """D of all vectors; None for a store of which nothing is known yet."""
    embedding_model: str
    members: dict[str, dict[str, Any]]
    """``bytes`` and ``sha256`` of each other member."""


def unwatched(chunks: Iterator[ChunkRow], _: str) -> Iterator[ChunkRow]:
    """Let no one watch."""
    return chunks


def write_archive(store: Store, path: Path, watch: Watch = unwatched) -> StoreInfo:
    """Write a store, as it stands at one moment, into one file.

    Args:
        store: May be one that is only read, and may be written to by others meanwhile.
        path: Replaced once the file is whole.
        watch: Sees each chunk twice: for its text and for its vector.

    Raises:
        StoreError: If the store is damaged.
        OSError: If the file cannot be written.
    """
    with (
        replacing(path) as partial,
        store.at_one_moment() as (info, chunks),
        zipfile.ZipFile(partial, "w") as archive,
    ):
        members = {
            CHUNKS: _write(archive, CHUNKS, map(_line, watch(chunks(), "texts written"))),
            VECTORS: _write(archive, VECTORS, _array(info, watch(chunks(), "vectors written"))),
        }
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": info.name,
            "chunks": info.chunks,
            "dimension": info.dimension,
            "embedding_model": info.embedding_model,
            "members": members,
        }
        _write(archive, MANIFEST, iter([orjson.dumps(manifest, option=orjson.OPT_INDENT_2)]))
    return info


def back_up(store: Store, path: Path) -> StoreInfo:
    """Copy a store, as it stands at one moment, into one SQLite file, and check the copy.

    Args:
        store: May be one that is only read, and may be written to by others meanwhile.
        path: Replaced once the copy is whole.

    Raises:
        StoreError: If the store is damaged.
        OSError: If the file cannot be written.
    """
    with replacing(path) as partial:
        try:
            store.back_up(partial)
            copy = Store(partial, read_only=True)
            try:
                copy.check()
                return copy.info()
            finally:
                copy.close()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{store.path}: could not be copied: {error}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which takes the place of another once it is whole and on disk."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


class Archive:
    """An archive that is being read; use it as a context manager.

    Args:
        path: The file.

    Raises:
        ArchiveError: If it is missing, damaged, or not an archive of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._zip = zipfile.ZipFile(path)
            try:
                self.manifest = self._manifest()
            except BaseException:
                self._zip.close()
                raise

    def __enter__(self) -> "Archive":
        """Read."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._zip.close()

    def check(self, info: StoreInfo | None, watch: Watch = unwatched) -> None:
        """Read all of it, and compare it with what it says about itself and with a store.

        Args:
            info: Of the store that it is to be merged into; None if there is none yet.
            watch: Sees each chunk once.

        Raises:
            ArchiveError: If anything is not as it should be.
        """
        if info is not None:
            self._check_kind(info)
        try:
            # A file of SQLite's own, gone when it is closed: ids need not fit into memory.
            with contextlib.closing(sqlite3.connect("", isolation_level=None)) as seen:
                seen.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
                seen.execute("BEGIN")
                for number, chunk in enumerate(watch(self.chunks(), "checked"), 1):
                    told = seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (chunk.id,))
                    if not told.rowcount:
                        raise self._error(f"{CHUNKS} line {number}: {chunk.id!r} stands twice")
        except sqlite3.DatabaseError as error:
            raise self._error(f"its ids could not be compared: {error}") from error

    def chunks(self) -> Iterator[ChunkRow]:
        """Walk all chunks.

        Raises:
            ArchiveError: If one is not as it should be, or, at the end, if a digest is not.
        """
        with (
            self._reading(),
            self._zip.open(CHUNKS) as chunks_file,
            self._zip.open(VECTORS) as vectors_file,
        ):
            lines, rows = _Digesting(chunks_file), _Digesting(vectors_file)
            yield from self._pairs(*(io.BufferedReader(one, BUFFER_BYTES) for one in (lines, rows)))
            for name, member in ((CHUNKS, lines), (VECTORS, rows)):
                if member.account() != self.manifest.members[name]:
                    raise self._error(f"{name}: its sha256 is not its manifest's")

    def _pairs(self, lines: IO[bytes], rows: IO[bytes]) -> Iterator[ChunkRow]:
        number = 0
        for vectors_ND in self._vectors(rows):
            for vector_D in vectors_ND:
                number += 1
                yield self._chunk(lines.readline(), number, vector_D)
        for name, member in ((CHUNKS, lines), (VECTORS, rows)):
            if member.read(1):
                raise self._error(f"{name}: holds more than {number} chunks")

    def _vectors(self, rows: IO[bytes]) -> Iterator[Floats]:
        count, dimension = self.manifest.chunks, self.manifest.dimension or 0
        version = np.lib.format.read_magic(rows)
        if version != (1, 0):
            raise self._error(f"{VECTORS}: expected format 1.0, got {version}")
        found = np.lib.format.read_array_header_1_0(rows)
        if found != ((count, dimension), False, np.dtype("<f4")):
            raise self._error(f"{VECTORS}: expected float32 {(count, dimension)}, got {found}")
        block = max(1, BLOCK_BYTES // (4 * dimension or 1))
        for start in range(0, count, block):
            size = min(block, count - start)
            raw = rows.read(size * dimension * 4)
            if len(raw) != size * dimension * 4:
                raise self._error(f"{VECTORS}: ends early")
            vectors_ND = np.frombuffer(raw, "<f4").reshape(size, dimension)
            unit_N = are_unit(vectors_ND)
            if not unit_N.all():
                row = start + int(unit_N.argmin())
                raise self._error(f"{VECTORS} row {row}: expected a unit vector")
            yield vectors_ND.astype(np.float32, copy=False)

    def _chunk(self, line: bytes, number: int, vector_D: Floats) -> ChunkRow:
        where = f"{CHUNKS} line {number}"
        if not line:
            raise self._error(f"{CHUNKS}: ends after {number - 1} of {self.manifest.chunks} lines")
        try:
            found = orjson.loads(line)
        except ValueError as error:
            raise self._error(f"{where}: not JSON: {error}") from error
        if not isinstance(found, dict) or found.keys() != _KINDS.keys():
            raise self._error(f"{where}: expected an object of {', '.join(_KINDS)}")
        for name, kind in _KINDS.items():
            if type(found[name]) is not kind or (name.endswith("id") and not found[name]):
                raise self._error(f"{where}: {name}: expected {kind.__name__}")
        if not -(2**63) <= found["position"] < 2**63:
            raise self._error(f"{where}: position: expected 64 bits")
        return ChunkRow(**found, vector_D=vector_D)

    def _manifest(self) -> Manifest:
        names = sorted(self._zip.namelist())
        if names != sorted((MANIFEST, CHUNKS, VECTORS)):
            raise self._error("not an archive of a store: it has other members")
        if self._zip.getinfo(MANIFEST).file_size > MANIFEST_LIMIT_BYTES:
            raise self._error(f"{MANIFEST}: too long")
        found = orjson.loads(self._zip.read(MANIFEST))
        kind = (found["format"], found["version"])
        if kind != (FORMAT, FORMAT_VERSION):
            raise self._error(f"expected {FORMAT} version {FORMAT_VERSION}, got {kind}")
        manifest = Manifest(
            name=str(found["name"]),
            chunks=int(found["chunks"]),
            dimension=None if found["dimension"] is None else int(found["dimension"]),
            embedding_model=str(found["embedding_model"]),
            members=dict(found["members"]),
        )
        if manifest.members.keys() != {CHUNKS, VECTORS}:
            raise self._error(f"{MANIFEST}: members: expected {CHUNKS} and {VECTORS}")
        if manifest.chunks < 0 or (manifest.chunks and not manifest.dimension):
            raise self._error(f"{MANIFEST}: expected chunks of some dimension")
        return manifest

    def _check_kind(self, info: StoreInfo) -> None:
        for what, own, other in (
            ("dimension", self.manifest.dimension, info.dimension),
            ("embedding model", self.manifest.embedding_model, info.embedding_model),
        ):
            if own and other and own != other:
                raise self._error(f"its {what} is {own}, that of the store {other}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn whatever a damaged file makes its readers raise into one line."""
        try:
            yield
        except ArchiveError:
            raise
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        except (KeyError, TypeError) as error:
            raise self._error(f"{MANIFEST}: expected other members") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise self._error(f"damaged, or not an archive of a store: {error}") from error

    def _error(self, message: str) -> ArchiveError:
        return ArchiveError(f"{self.path}: {message}")


class _Digesting(io.RawIOBase):
    """A file of which everything that is read is digested on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def account(self) -> dict[str, Any]:
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}


def _write(archive: zipfile.ZipFile, name: str, parts: Iterator[bytes]) -> dict[str, Any]:
    member = zipfile.ZipInfo(name, _NO_DATE)
    member.compress_type = zipfile.ZIP_STORED if name == VECTORS else zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    digest, size = hashlib.sha256(), 0
    with archive.open(member, "w", force_zip64=True) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _line(chunk: ChunkRow) -> bytes:
    return orjson.dumps(
        {name: getattr(chunk, name) for name in _KINDS}, option=orjson.OPT_APPEND_NEWLINE
    )


def _array(info: StoreInfo, chunks: Iterator[ChunkRow]) -> Iterator[bytes]:
    header = io.BytesIO()
    shape = (info.chunks, info.dimension or 0)
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    yield header.getvalue()
    for chunk in chunks:
        yield chunk.vector_D.astype("<f4").tobytes()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
