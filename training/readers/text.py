"""Reader of plain text: paragraphs stand between blank lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.chunking import ChunkingConfig, chunk_paragraphs
from training.raw import Chunk, EmptyInputError, InputError, RawDocument

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n")


def read_text(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Read one document; lines within a paragraph are joined.

    Args:
        path: A UTF-8 file.
        doc_id: Name of the document.
        chunking: Sizes of chunks.

    Raises:
        InputError: If the file is not UTF-8, or holds no text.
    """
    blocks = _BLANK_LINES.split(decoded(path))
    paragraphs = [Chunk(text=" ".join(block.split())) for block in blocks]
    yield one_document(path, doc_id, paragraphs, chunking)


def decoded(path: Path) -> str:
    """A file's text, with or without a byte order mark, with any line ends.

    Raises:
        InputError: If it is not UTF-8.
    """
    try:
        return "\n".join(path.read_bytes().decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name} byte {error.start}: expected UTF-8: {error.reason}"
        ) from error


def one_document(
    path: Path,
    doc_id: str,
    paragraphs: list[Chunk],
    chunking: ChunkingConfig,
    *,
    title: str = "",
    licence: str = "",
    group: str | None = None,
) -> RawDocument:
    """Chunk paragraphs into the one document of a file.

    Raises:
        EmptyInputError: If there is no text in them.
    """
    chunks = chunk_paragraphs(paragraphs, chunking)
    if not chunks:
        raise EmptyInputError(f"{path.name}: expected at least one paragraph of text, got none")
    return RawDocument(
        doc_id=doc_id,
        chunks=chunks,
        origin=str(path),
        title=title or path.stem,
        licence=licence,
        group=group,
    )
