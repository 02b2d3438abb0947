"""Reader of NPZ sequence files: windows of vectors with the vector that followed, but no texts.

Shapes: N rows, L window length, D dimension.
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.chunking import ChunkingConfig
from training.raw import Chunk, InputError, RawDocument

CONTEXTS = ("contexts", "context", "windows", "context_vectors", "inputs", "X", "x")
TARGETS = ("targets", "target", "next", "target_vectors", "outputs", "Y", "y")
ARTICLES = ("article_ids", "article_id", "articles", "doc_ids", "document_ids", "groups", "ids")

Array = NDArray[Any]


def read_npz(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Put windows back together into documents.

    Row j follows row i if both are of one article and the context of j is that of i, moved on by
    one, with the target of i at its end. Rows that follow each other become one document, whatever
    their order in the file; a row that stands alone becomes a document of L + 1 chunks. All
    documents of an article share its split. Zero vectors before a context are padding.

    Args:
        path: An .npz file with ``contexts`` (N, L, D), ``targets`` (N, D) and, optionally,
            ``article_ids`` (N,), or one of the other names in this module.
        doc_id: Prefix of the documents' names.
        chunking: Not used: every vector is a chunk.

    Raises:
        InputError: If an array is missing or does not fit, or a vector is NaN, infinite or zero.
    """
    contexts_NLD, targets_ND, articles = _load(path)
    chains = _chains(contexts_NLD, targets_ND, articles)
    shares = Counter(articles[chain[0]] for chain in chains)
    for chain in chains:
        article = articles[chain[0]]
        name = str(chain[0]) if article is None else article
        if article is not None and shares[article] > 1:
            name = f"{article}.{chain[0]}"
        origin = f"{path.name} row {chain[0]}"
        vectors = _vectors(contexts_NLD[chain[0]], targets_ND[chain], origin)
        yield RawDocument(
            doc_id=f"{doc_id}#{name}",
            chunks=(Chunk(text=""),) * len(vectors),
            origin=origin,
            title=name,
            group=article,
            vectors=vectors,
        )


def _load(path: Path) -> tuple[Array, Array, list[str | None]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            contexts_NLD = _member(archive, CONTEXTS, path.name)
            targets_ND = _member(archive, TARGETS, path.name)
            found = [name for name in ARTICLES if name in archive]
            ids = archive[found[0]] if found else None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: expected an NPZ archive of numbers: {error}") from error
    shape = contexts_NLD.shape
    if contexts_NLD.ndim != 3 or 0 in shape or contexts_NLD.dtype.kind != "f":
        raise InputError(
            f"{path.name}: contexts: expected floating-point (rows, window, dimension), "
            f"got {contexts_NLD.dtype} {shape}"
        )
    expected = (shape[0], shape[2])
    if targets_ND.shape != expected or targets_ND.dtype.kind != "f":
        raise InputError(
            f"{path.name}: targets: expected floating-point {expected}, "
            f"got {targets_ND.dtype} {targets_ND.shape}"
        )
    if ids is None:
        return contexts_NLD, targets_ND, [None] * shape[0]
    if ids.shape != shape[:1]:
        raise InputError(f"{path.name}: article_ids: expected {shape[:1]}, got {ids.shape}")
    names = (value.decode() if isinstance(value, bytes) else str(value) for value in ids.tolist())
    return contexts_NLD, targets_ND, list(names)


def _member(archive: Mapping[str, Array], names: tuple[str, ...], file: str) -> Array:
    for name in names:
        if name in archive:
            return archive[name]
    raise InputError(
        f"{file}: expected an array {names[0]!r} (or {', '.join(names[1:])}), "
        f"got {', '.join(archive) or 'none'}"
    )


def _chains(contexts_NLD: Array, targets_ND: Array, articles: list[str | None]) -> list[list[int]]:
    """Rows that follow each other, each row in exactly one chain, in the order of first rows."""
    rows = range(len(contexts_NLD))
    by_context: dict[tuple[str | None, bytes], list[int]] = {}
    for row in rows:
        by_context.setdefault((articles[row], _digest(contexts_NLD[row])), []).append(row)
    following: dict[int, int] = {}
    for row in rows:
        moved_LD = np.concatenate([contexts_NLD[row, 1:], targets_ND[row : row + 1]])
        successors = by_context.get((articles[row], _digest(moved_LD)))
        if successors and successors[0] != row:
            following[row] = successors.pop(0)
    preceded = set(following.values())
    # Rows in a circle have no first one; they come last, from wherever the circle is met.
    starts = [row for row in rows if row not in preceded] + list(rows)
    chains: list[list[int]] = []
    seen: set[int] = set()
    for start in starts:
        chain: list[int] = []
        place: int | None = start
        while place is not None and place not in seen:
            seen.add(place)
            chain.append(place)
            place = following.get(place)
        if chain:
            chains.append(chain)
    return sorted(chains)


def _digest(vectors_LD: Array) -> bytes:
    # + 0.0 turns -0.0 into 0.0, which is equal but has other bytes.
    data = np.ascontiguousarray(vectors_LD + 0.0, np.float32)
    return hashlib.sha256(data.tobytes()).digest()


def _vectors(context_LD: Array, targets_nD: Array, origin: str) -> NDArray[np.float32]:
    padding = int(np.argmax(context_LD.any(axis=1)))
    vectors = np.concatenate([context_LD[padding:], targets_nD]).astype(np.float32)
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise InputError(
            f"{origin}: expected finite vectors with a direction, got NaN, "
            "infinity or a zero vector"
        )
    return vectors
