"""Which reader takes which file, and how folders are walked."""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from training.chunking import ChunkingConfig
from training.raw import EmptyInputError, InputError, RawDocument
from training.readers.html import read_html
from training.readers.jats import read_jats
from training.readers.jsonl import read_jsonl
from training.readers.markdown import read_markdown
from training.readers.npz import read_npz
from training.readers.text import read_text

logger = logging.getLogger(__name__)

Reader = Callable[[Path, str, ChunkingConfig], Iterator[RawDocument]]
"""Takes a file, the document's id, and chunk sizes; yields documents in order."""

READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".gz": read_jsonl,
    ".xz": read_jsonl,
    ".zst": read_jsonl,
    ".xml": read_jats,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".npz": read_npz,
}


def supported_suffixes() -> str:
    """The suffixes that have a reader, for messages."""
    return ", ".join(READERS)


def read_inputs(
    paths: Iterable[str | Path], chunking: ChunkingConfig | None = None
) -> Iterator[RawDocument]:
    """Read files and folders, in the order given.

    A folder is walked recursively in the order of its relative paths; hidden files, files that no
    reader takes and files without text are passed over. A document that does not name itself is
    named by its file: its path relative to the folder given, or its name where a file was given.

    Args:
        paths: Files and folders.
        chunking: Sizes for inputs that are not chunked yet; the defaults if None.

    Raises:
        InputError: If a file is of an unknown kind or damaged, or a folder has none to read.
        FileNotFoundError: If a path does not exist.
    """
    chunking = chunking or ChunkingConfig()
    files = [(Path(start), *found) for start in paths for found in _find(Path(start))]
    for start, path, doc_id in files:
        try:
            yield from READERS[path.suffix.lower()](path, doc_id, chunking)
        except EmptyInputError as error:
            if path == start:
                raise
            logger.warning("passed over: %s", error)


def _find(start: Path) -> Iterator[tuple[Path, str]]:
    if not start.exists():
        raise FileNotFoundError(f"{start}: no such file or folder")
    if not start.is_dir():
        if start.suffix.lower() not in READERS:
            raise InputError(
                f"{start.name}: expected a file ending in one of {supported_suffixes()}, "
                f"got {start.suffix or 'no suffix'!r}"
            )
        yield start, start.name
        return
    relative = sorted(
        path.relative_to(start)
        for path in start.rglob("*")
        if path.suffix.lower() in READERS and path.is_file()
    )
    visible = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    if not visible:
        raise InputError(
            f"{start}: expected at least one file ending in one of {supported_suffixes()}, got none"
        )
    for path in visible:
        yield start / path, path.as_posix()
