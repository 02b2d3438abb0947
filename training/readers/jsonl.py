"""Reader of JSON lines, plain or compressed: one document a line, already cut into chunks."""

import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import zstandard

from training.chunking import ChunkingConfig
from training.raw import Chunk, InputError, RawDocument


def read_jsonl(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Read ``{"doc_id", "title", "source", "licence", "chunks": [{"text", "section"}, ...]}``.

    Chunks stay exactly as they are, so that vectors made elsewhere keep their rows. Only ``doc_id``
    and ``chunks`` are required; a chunk may be a bare string; ``group`` overrides what is hashed
    for splitting.

    Args:
        path: A .jsonl file, or one compressed as .gz, .xz or .zst.
        doc_id: Not used: the lines name their documents.
        chunking: Not used: the lines are chunked.

    Raises:
        InputError: If the file is damaged or a line is not as above; it names file and line.
    """
    number = 0
    try:
        with _open(path) as file:
            for line in file:
                number += 1
                if line.strip():
                    yield _document(line, f"{path.name} line {number}")
    except (EOFError, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path.name} after line {number}: cannot be decompressed: {error}"
        ) from error


def _open(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".zst":
        decompressor = zstandard.ZstdDecompressor()
        return io.BufferedReader(
            decompressor.stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        )
    return path.open("rb")


def _document(line: bytes, origin: str) -> RawDocument:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"{origin}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{origin}: expected an object, got {type(content).__name__}")
    doc_id = _text(content, "doc_id", origin)
    if not doc_id:
        raise InputError(f"{origin}: doc_id: expected a non-empty string, got nothing")
    chunks = content.get("chunks")
    if not isinstance(chunks, list) or not chunks:
        raise InputError(f"{origin}: chunks: expected a non-empty list, got {_brief(chunks)}")
    return RawDocument(
        doc_id=doc_id,
        chunks=tuple(
            _chunk(chunk, origin, f"chunks.{place}") for place, chunk in enumerate(chunks)
        ),
        origin=origin,
        title=_text(content, "title", origin),
        source=_text(content, "source", origin),
        licence=_text(content, "licence", origin),
        group=_text(content, "group", origin) or None,
    )


def _chunk(chunk: object, origin: str, place: str) -> Chunk:
    if isinstance(chunk, str):
        return Chunk(text=chunk)
    if not isinstance(chunk, dict) or not isinstance(chunk.get("text"), str):
        raise InputError(
            f'{origin}: {place}: expected a string or {{"text": string}}, got {_brief(chunk)}'
        )
    return Chunk(text=chunk["text"], section=_text(chunk, "section", f"{origin}: {place}"))


def _text(content: dict[str, Any], field: str, origin: str) -> str:
    value = content.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{origin}: {field}: expected a string, got {_brief(value)}")
    return value


def _brief(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
