"""The prepared data folder, as it is read.

    manifest.json    counts, fingerprint, options, and what the vectors were made with
    documents.jsonl  one document a line, with the first row and the number of its chunks
    chunks.jsonl     one chunk a line: rows in document order, then chunk order
    vectors.npy      (N, D) float32 unit rows, in the order of chunks.jsonl

Shapes: N chunks, D dimension.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
MANIFEST = "manifest.json"
DOCUMENTS = "documents.jsonl"
CHUNKS = "chunks.jsonl"
VECTORS = "vectors.npy"

_BLOCK_BYTES = 1 << 20


class DatasetError(ValueError):
    """Prepared data are missing, damaged or cannot be written; the message says which and where."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document's place in the prepared data."""

    doc_id: str
    """Unique name."""
    title: str
    """Title, or empty."""
    source: str
    """Collection that it comes from, or empty."""
    licence: str
    """Licence, or empty if unknown."""
    start: int
    """Row of its first chunk."""
    count: int
    """Number of its chunks, at least 1."""
    group: str
    """What is hashed for splitting: documents of one group always share a split."""


class PreparedDataset:
    """A prepared folder that was found consistent; build it with :meth:`open`.

    Args:
        path: The folder.
        manifest: Contents of its manifest.json.
        documents: Its documents, in row order.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], documents: tuple[Document, ...]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.documents = documents

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a folder and check that its files fit together.

        Texts are not kept in memory, and vectors are mapped only when they are asked for.

        Raises:
            DatasetError: If a file is missing, damaged, or disagrees with the manifest.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        documents = tuple(_read_documents(folder / DOCUMENTS))
        digest, chunks = data_fingerprint(folder)
        rows = documents[-1].start + documents[-1].count if documents else 0
        for field, actual in (("documents", len(documents)), ("chunks", chunks), ("chunks", rows)):
            if manifest.get(field) != actual:
                raise DatasetError(
                    f"{folder}: {field}: expected {manifest.get(field)} as in {MANIFEST}, "
                    f"got {actual}"
                )
        if manifest.get("fingerprint") != digest:
            raise DatasetError(
                f"{folder}: fingerprint: expected {manifest.get('fingerprint')}, got {digest}; "
                "the files were changed after they were prepared"
            )
        return cls(folder, manifest, documents)

    @property
    def chunk_count(self) -> int:
        """N, the number of chunks."""
        return int(self.manifest["chunks"])

    @property
    def dimension(self) -> int:
        """D, the dimension of the vectors.

        Raises:
            DatasetError: If there are none.
        """
        return int(self.vectors.shape[1])

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors (N, D), C-contiguous and memory-mapped; the file is never written to.

        Raises:
            DatasetError: If there are none, or they do not fit the chunks.
        """
        record = self.manifest.get("vectors")
        if record is None:
            raise DatasetError(
                f"{self.path}: has no vectors yet; make them with: "
                f"python -m training embed {self.path}"
            )
        try:
            # Copy on write: PyTorch warns of arrays that it could not write to.
            mapped = np.load(self.path / VECTORS, mmap_mode="c", allow_pickle=False)
            vectors: NDArray[Any] = mapped.view(np.ndarray)
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(f"{self.path / VECTORS}: cannot be read: {error}") from error
        expected = (self.chunk_count, int(record["dimension"]))
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise DatasetError(
                f"{self.path / VECTORS}: expected float32 {expected}, "
                f"got {vectors.dtype} {vectors.shape}"
            )
        return vectors

    @property
    def fingerprint(self) -> str:
        """Hash over data and vectors: equal exactly where training would see the same numbers."""
        account = [self.manifest["fingerprint"], self.manifest.get("vectors")]
        return hashlib.sha256(json.dumps(account, sort_keys=True).encode()).hexdigest()

    def texts(self) -> list[str]:
        """Text of every chunk, in row order; read anew at each call."""
        return [str(chunk["text"]) for chunk in read_json_lines(self.path / CHUNKS)]

    def sections(self) -> list[str]:
        """Section of every chunk, in row order; read anew at each call."""
        return [str(chunk["section"]) for chunk in read_json_lines(self.path / CHUNKS)]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check a folder's manifest.

    Raises:
        DatasetError: If it is missing, not JSON, or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder}: is not prepared data: it has no {MANIFEST}; make it with: "
            f"python -m training prepare INPUT --out {folder}"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    actual = manifest.get("format") if isinstance(manifest, dict) else None
    if actual != FORMAT:
        raise DatasetError(f"{path}: format: expected {FORMAT}, got {actual!r}")
    return dict(manifest)


def data_fingerprint(folder: Path) -> tuple[str, int]:
    """Hash documents.jsonl and chunks.jsonl, and count the lines of the latter.

    Raises:
        DatasetError: If one of them cannot be read.
    """
    digest = hashlib.sha256()
    lines = 0
    for name in (DOCUMENTS, CHUNKS):
        lines = 0
        try:
            with (folder / name).open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                    lines += block.count(b"\n")
        except OSError as error:
            raise DatasetError(f"{folder / name}: cannot be read: {error.strerror}") from error
    return digest.hexdigest(), lines


def read_json_lines(path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """Objects of a JSON lines file, one by one.

    Args:
        path: The file.
        first: Number of the first line that is wanted, from 0; those before it are not parsed.

    Raises:
        DatasetError: If the file cannot be read or a line is not JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(islice(file, first, None), first + 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DatasetError(f"{path} line {number}: not JSON: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def _read_documents(path: Path) -> Iterator[Document]:
    row = 0
    for number, line in enumerate(read_json_lines(path), 1):
        try:
            document = Document(**line)
        except TypeError as error:
            raise DatasetError(f"{path} line {number}: {error}") from error
        if document.start != row or document.count < 1:
            raise DatasetError(
                f"{path} line {number}: expected start {row} and a count of at least 1, "
                f"got start {document.start} and count {document.count}"
            )
        row += document.count
        yield document
