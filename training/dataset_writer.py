"""Write a prepared data folder: built beside its place, and moved there when it is complete."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from training.dataset import (
    CHUNKS,
    DOCUMENTS,
    FORMAT,
    MANIFEST,
    VECTORS,
    DatasetError,
    Document,
    data_fingerprint,
    read_manifest,
)
from training.raw import RawDocument
from training.vector_file import blocks_of, load_vectors, write_vectors

_CARRIED = "carried.f32"


class DatasetWriter:
    """Writes documents one by one; leave the ``with`` block normally and the folder stands.

    Args:
        out: Folder to write. Prepared data that stand there are replaced, anything else is not.
        name: Name of the data.
        options: How they were made, for the manifest.
        carried_model: Model that made the vectors which come with documents; None if unknown.
        carried_weights_sha256: Hash of its weights; None if unknown.

    Raises:
        DatasetError: If ``out`` holds something other than prepared data.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        name: str,
        options: Mapping[str, Any] | None = None,
        carried_model: str | None = None,
        carried_weights_sha256: str | None = None,
    ) -> None:
        self.out = Path(out)
        if self.out.exists() and not _replaceable(self.out):
            raise DatasetError(
                f"{self.out}: expected a new or empty folder or earlier prepared data, "
                "got something else; choose another folder"
            )
        self._name = name
        self._options = dict(options or {})
        self._carried_by = (carried_model, carried_weights_sha256)
        self._origins: dict[str, str] = {}
        self._rows = 0
        self._dimension: int | None = None
        self._vectors: dict[str, Any] | None = None
        self._files: dict[str, BinaryIO] = {}
        self._partial = self.out.absolute().with_name(f".{self.out.name}.partial-{os.getpid()}")

    def __enter__(self) -> Self:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir()
        self._files = {
            name: (self._partial / name).open("wb") for name in (DOCUMENTS, CHUNKS, _CARRIED)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close()
            shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return len(self._origins)

    @property
    def chunks(self) -> int:
        """Chunks written so far."""
        return self._rows

    @property
    def has_vectors(self) -> bool:
        """Whether vectors were attached, or came with the documents."""
        return self._vectors is not None or self._dimension is not None

    def add(self, raw: RawDocument) -> None:
        """Append a document.

        Raises:
            DatasetError: If it has no chunk, its id was used before, or its vectors do not fit.
        """
        if not raw.chunks:
            raise DatasetError(f"{raw.origin}: {raw.doc_id}: expected at least one chunk, got none")
        if raw.doc_id in self._origins:
            raise DatasetError(
                f"doc_id: expected every document to have its own, got {raw.doc_id!r} twice: "
                f"in {self._origins[raw.doc_id]} and in {raw.origin}"
            )
        self._carry(raw)
        self._origins[raw.doc_id] = raw.origin
        document = Document(
            doc_id=raw.doc_id,
            title=raw.title,
            source=raw.source,
            licence=raw.licence,
            start=self._rows,
            count=len(raw.chunks),
            group=raw.doc_id if raw.group is None else raw.group,
        )
        self._line(DOCUMENTS, dataclasses.asdict(document))
        for chunk in raw.chunks:
            self._line(CHUNKS, {"text": chunk.text, "section": chunk.section})
        self._rows += len(raw.chunks)

    def attach_vectors(
        self,
        source: Path | NDArray[Any],
        *,
        model: str | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        """Store vectors for all chunks, after the last :meth:`add`.

        Args:
            source: A .npy file or an array, (N, D) floating-point, rows of any length but zero.
            model: Name of the model that made them; None if unknown.
            weights_sha256: Hash of its weights; None if unknown.

        Raises:
            DatasetError: If rows and chunks differ in number, or a row is NaN, infinite or zero.
            FileNotFoundError: If there is no such file.
        """
        if self._dimension is not None:
            raise DatasetError("vectors: expected one source, but the input brought its own")
        array_ND = load_vectors(source, self._rows)
        name = source.name if isinstance(source, Path) else "vectors"
        self._store(array_ND, name, model, weights_sha256)

    def _carry(self, raw: RawDocument) -> None:
        """Put aside the vectors that came with a document."""
        if raw.vectors is None:
            if self._dimension is not None:
                raise DatasetError(
                    f"{raw.origin}: vectors: expected some as in the inputs before, got none"
                )
            return
        shape = raw.vectors.shape
        dimension = self._dimension or (shape[1] if self._rows == 0 else 0)
        if shape != (len(raw.chunks), dimension):
            raise DatasetError(
                f"{raw.origin}: vectors: expected shape {(len(raw.chunks), dimension)} to go with "
                f"the inputs before, got {shape}"
            )
        self._dimension = dimension
        self._files[_CARRIED].write(np.ascontiguousarray(raw.vectors, np.float32).tobytes())

    def _store(
        self, array_ND: NDArray[Any], name: str, model: str | None, weights_sha256: str | None
    ) -> None:
        shape = (self._rows, int(array_ND.shape[1]))
        digest = write_vectors(self._partial / VECTORS, blocks_of(array_ND), shape, name)
        self._vectors = _vectors_record(shape, digest, model, weights_sha256)

    def _finish(self) -> None:
        self._close()
        if not self._rows:
            raise DatasetError("inputs: expected at least one document, got none")
        carried = self._partial / _CARRIED
        if self._dimension is not None:
            shape = (self._rows, self._dimension)
            array_ND = np.memmap(carried, np.float32, "r", shape=shape)
            self._store(array_ND, "vectors", *self._carried_by)
        carried.unlink()
        digest, _ = data_fingerprint(self._partial)
        write_manifest(
            self._partial,
            {
                "format": FORMAT,
                "name": self._name,
                "documents": self.documents,
                "chunks": self._rows,
                "fingerprint": digest,
                "options": self._options,
                "vectors": self._vectors,
            },
        )
        self._move_into_place()

    def _move_into_place(self) -> None:
        old = self._partial.with_name(self._partial.name + ".old")
        if self.out.exists():
            self.out.rename(old)
        self._partial.rename(self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _line(self, name: str, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        # A lone surrogate is legal in JSON as an escape, but has no UTF-8 form.
        self._files[name].write(line.encode("utf-8", "replace") + b"\n")

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


def install_vectors(
    folder: Path,
    blocks: Iterable[NDArray[Any]],
    shape: tuple[int, int],
    *,
    model: str | None,
    weights_sha256: str | None,
) -> None:
    """Give prepared data vectors, in place of those that they may have.

    Args:
        folder: A prepared folder.
        blocks: Blocks (n, D) that make up all rows.
        shape: N and D.
        model: Name of the model that made them; None if unknown.
        weights_sha256: Hash of its weights; None if unknown.

    Raises:
        DatasetError: If the blocks do not make up ``shape``, or a row is NaN, infinite or zero.
    """
    manifest = read_manifest(folder)
    # Between the two files an interruption must find no record rather than a wrong one.
    write_manifest(folder, {**manifest, "vectors": None})
    digest = write_vectors(folder / VECTORS, blocks, shape, model or "vectors")
    record = _vectors_record(shape, digest, model, weights_sha256)
    write_manifest(folder, {**manifest, "vectors": record})


def _vectors_record(
    shape: tuple[int, int], digest: str, model: str | None, weights_sha256: str | None
) -> dict[str, Any]:
    return {
        "model": model,
        "dimension": shape[1],
        "weights_sha256": weights_sha256,
        "rows": shape[0],
        "sha256": digest,
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace a folder's manifest in one step."""
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def _replaceable(out: Path) -> bool:
    if not out.is_dir():
        return False
    prepared = (out / MANIFEST).is_file() and (out / CHUNKS).is_file()
    return prepared or not any(out.iterdir())
