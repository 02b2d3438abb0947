"""An index on disk: its parts, what the caller calls its rows, and last a manifest.

What is large is mapped, not read, so opening must not read it either. Files up to 64 MiB are
checked by the digest of all their bytes, larger ones by their length and by pieces from all over
them, which notices a file that was cut, exchanged or half written, but not a single changed byte.
Such a byte can make a search miss a row. It cannot make a score wrong, as scores come from the
stored vectors, and all row numbers are looked at.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from models.index.kinds import IVF, IndexKind

WHOLE_UP_TO = 64 * 2**20
PIECES = 256
PIECE_BYTES = 64 * 2**10
READ_BYTES = 4 * 2**20
FORMAT = 2

Rows = NDArray[np.int64]


class IndexMismatchError(ValueError):
    """A saved index is missing, damaged, or was built from something else."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Vectors of an index that were added together."""

    index: Any
    """FAISS's; its ids count from 0."""
    first: int
    """Row of its first vector."""
    mark: str
    """Tells it from every other part."""
    empty: NDArray[np.uint8] | None = None
    """The trained index without vectors, serialised, where later vectors need it."""
    file: Path | None = None
    """Where it is mapped from, if it is."""

    @property
    def size(self) -> int:
        """Its vectors."""
        return int(self.index.ntotal)


def save(
    path: Path,
    parts: tuple[Part, ...],
    manifest: dict[str, Any],
    fingerprint: dict[str, Any],
    rows_N: Rows,
) -> None:
    """Write parts that are not there yet, the rows, and then the manifest.

    Args:
        path: File of the first part; what belongs to it stands beside.
        parts: In the order of rows.
        manifest: What the index says of itself.
        fingerprint: What it was built from.
        rows_N: What the caller calls each vector.
    """
    before = _entries(path)
    _manifest(path).unlink(missing_ok=True)
    entries = []
    for number, part in enumerate(parts):
        file = _part(path, number)
        entry = {"mark": part.mark, "first": part.first, "size": part.size}
        known = before.get(part.mark)
        # A large part that stands there already is not written again for a small one beside it.
        if known is not None and known["file"] == file.name and _check(file, known) is None:
            entries.append(known)
            continue
        _write(file, lambda partial, index=part.index: faiss.write_index(index, str(partial)))
        entry |= {"file": file.name, **_digest(file)}
        if part.empty is not None:
            empty = file.with_suffix(".trained")
            _write(empty, lambda partial, content=part.empty: content.tofile(partial))
            entry["trained"] = _digest(empty)
        entries.append(entry)
    for number in range(len(parts), 2):
        _part(path, number).unlink(missing_ok=True)
    _write(_rows(path), lambda partial: _save_array(partial, rows_N))
    content = {
        "format": FORMAT,
        **manifest,
        "parts": entries,
        "rows": _digest(_rows(path)),
        "fingerprint": fingerprint,
    }
    text = json.dumps({**content, "sha256": _own(content)}, indent=2)
    _write(_manifest(path), lambda partial: partial.write_text(text))


def load(path: Path, fingerprint: dict[str, Any]) -> tuple[tuple[Part, ...], dict[str, Any], Rows]:
    """Read parts, manifest and rows, if they were built from ``fingerprint`` and are undamaged.

    Raises:
        IndexMismatchError: If not; the message says why.
    """
    manifest = _read_manifest(path, fingerprint)
    try:
        parts = tuple(_read(path, entry, manifest["kind"]) for entry in manifest["parts"])
        _demand(_rows(path), manifest["rows"])
        rows_N: Rows = np.load(_rows(path), allow_pickle=False)
    except IndexMismatchError:
        raise
    except FileNotFoundError as error:
        raise IndexMismatchError(f"{path.name}: there is none") from error
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IndexMismatchError(f"{path.name}: not readable: {error}") from error
    size = sum(part.size for part in parts)
    if size != manifest.get("size"):
        raise IndexMismatchError(f"{path.name}: expected {manifest.get('size')} rows, got {size}")
    if rows_N.shape != (size,):
        raise IndexMismatchError(f"{path.name}: expected {size} rows, got {rows_N.shape}")
    return parts, manifest, rows_N


def _read_manifest(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(_manifest(path).read_bytes())
        form, own = manifest.get("format"), manifest.pop("sha256", None)
    except FileNotFoundError as error:
        raise IndexMismatchError(f"{path.name}: there is none") from error
    except (OSError, ValueError, AttributeError) as error:
        raise IndexMismatchError(f"{path.name}: not readable: {error}") from error
    if form != FORMAT:
        raise IndexMismatchError(f"{path.name}: expected format {FORMAT}, got {form!r}")
    if own != _own(manifest):
        raise IndexMismatchError(f"{path.name}: damaged, its manifest was changed")
    if manifest.get("fingerprint") != fingerprint:
        raise IndexMismatchError(f"{path.name}: built from other data or another checkpoint")
    return manifest


def _read(path: Path, entry: dict[str, Any], kind: str) -> Part:
    file = path.with_name(entry["file"])
    _demand(file, entry)
    mapped = IndexKind(kind) in IVF
    empty = None
    if "trained" in entry:
        trained = file.with_suffix(".trained")
        _demand(trained, entry["trained"])
        empty = np.fromfile(trained, np.uint8)
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    if mapped:
        _demand_rows(file, index)
    return Part(
        index=index,
        first=int(entry["first"]),
        mark=str(entry["mark"]),
        empty=empty,
        file=file if mapped else None,
    )


def read_through(path: Path) -> None:
    """Read a file, so that the operating system has it in memory."""
    with path.open("rb", buffering=0) as file:
        while file.read(READ_BYTES):
            pass


def _demand_rows(path: Path, index: Any) -> None:
    """See that lists name rows that there are, since what refines them does not look."""
    lists: Any = faiss.extract_index_ivf(index).invlists
    for number in range(lists.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
        if rows.min() < 0 or rows.max() >= index.ntotal:
            raise IndexMismatchError(f"{path.name}: damaged, it names rows that there are not")


def _own(manifest: dict[str, Any]) -> str:
    """Digest of what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """What an older manifest says of its parts, by mark; nothing if it cannot be used."""
    try:
        manifest = json.loads(_manifest(path).read_bytes())
        if manifest["format"] != FORMAT:
            return {}
        return {entry["mark"]: entry for entry in manifest["parts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path, writer: Any) -> None:
    """Write beside, synchronise, and put in place."""
    partial = path.with_name(f".{path.name}.partial")
    writer(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _save_array(path: Path, rows_N: Rows) -> None:
    with path.open("wb") as file:
        np.save(file, rows_N)


def _digest(path: Path) -> dict[str, Any]:
    """Length and digest of a file, or of pieces from its first byte to its last."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_UP_TO:
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        digest = hashlib.sha256()
        for start in np.linspace(0, size - PIECE_BYTES, PIECES).astype(np.int64):
            file.seek(int(start))
            digest.update(file.read(PIECE_BYTES))
    return {"bytes": size, "sampled_sha256": digest.hexdigest()}


def _check(path: Path, wanted: dict[str, Any]) -> str | None:
    """What a file has other than it should have, or None."""
    if not path.exists():
        return "file"
    size = path.stat().st_size
    if size != wanted["bytes"]:
        return "length"
    return next((name for name, value in _digest(path).items() if wanted.get(name) != value), None)


def _demand(path: Path, wanted: dict[str, Any]) -> None:
    wrong = _check(path, wanted)
    if wrong == "file":
        raise FileNotFoundError(path.name)
    if wrong is not None:
        raise IndexMismatchError(f"{path.name}: damaged, its {wrong} is not its manifest's")


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _rows(path: Path) -> Path:
    return path.with_suffix(".rows.npy")


def _part(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.stem}.tail{path.suffix}")
