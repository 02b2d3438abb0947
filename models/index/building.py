"""Building an index block by block, so that it takes the memory of the index and of one block.

What is slow is kept in a scratch folder as it is done: the trained centroids and the list of every
vector for inverted lists, the graph so far for HNSW. A build that was killed goes on from there.

Shapes: N vectors, D dimension.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from models.index import ivf
from models.index.kinds import HNSW_LINKS, IVF, IndexKind
from models.scoring import Floats

BLOCK = 65_536
"""Vectors read, assigned and added together."""
GRAPH_BLOCK = 8_192
GRAPH_KEPT_EVERY = 65_536
"""Vectors between two times that a graph is kept."""
HNSW_BUILD_EF = 200
SAMPLED_RUN = 32
"""Neighbouring vectors of a sample, which are read from the disk together."""
RECOGNISED_BY = 256
"""Vectors whose digest tells whether a scratch folder belongs to them."""

Progress = Callable[[str, int, int], None]
"""Told the stage (``train``, ``add``, ``tune``), what of it is done, and all of it."""
Seen = Callable[[int, Floats], None]
"""Told the first row and the vectors of each block."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be built."""

    kind: IndexKind
    size: int
    dimension: int
    lists: int
    """Inverted lists; 0 for what has none."""
    fine: bool
    """Whether ``ivf_rabitq`` keeps fine codes."""


def built(
    vectors_ND: Floats, plan: Plan, progress: Progress | None, scratch: Path | None, seen: Seen
) -> tuple[Any, NDArray[np.uint8] | None]:
    """Build, or go on building.

    Args:
        vectors_ND: All of them; may be mapped from a file.
        plan: What to build.
        progress: Told how far it is.
        scratch: Folder for what is done so far; made if it is not there.
        seen: Called with the first row and the vectors of each block, for whoever needs all.

    Returns:
        A FAISS index whose ids are row numbers, and for inverted lists what they were when empty.
    """
    report = progress or silent
    kept = None if scratch is None else Scratch(scratch, plan, vectors_ND)
    empty = None
    if plan.kind in IVF:
        index = _trained(vectors_ND, plan, report, kept)
        empty = faiss.serialize_index(index)
        _fill(index, vectors_ND, 0, report, kept, seen)
    else:
        index = _compared(vectors_ND, plan, report, kept, seen)
    if kept is not None:
        kept.clear()
    return index, empty


class Scratch:
    """The folder in which a build keeps what it has done.

    Args:
        folder: Where; what another build left there is removed.
        plan: What is built.
        vectors_ND: From what.
    """

    def __init__(self, folder: Path, plan: Plan, vectors_ND: Floats) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._plan = folder / "plan.json"
        self._index = folder / "index.partial"
        self._lists = folder / "lists.partial"
        wanted = {**asdict(plan), "vectors": _recognised(vectors_ND)}
        try:
            same = json.loads(self._plan.read_bytes()) == wanted
        except (OSError, ValueError):
            same = False
        if not same:
            self.clear()
            self._plan.write_text(json.dumps(wanted))

    def index(self) -> Any | None:
        """What was kept by ``keep``, or None."""
        return faiss.read_index(str(self._index)) if self._index.exists() else None

    def keep(self, index: Any) -> None:
        """Keep an index in the place of the last."""
        writing = self._index.with_suffix(".writing")
        faiss.write_index(index, str(writing))
        writing.replace(self._index)

    def lists(self, start: int, count: int) -> ivf.Lists | None:
        """The lists of ``count`` vectors from ``start`` on, if all of them were kept."""
        if not self._lists.exists():
            return None
        lists_N = np.fromfile(self._lists, np.int32, count, offset=4 * start)
        return lists_N.astype(np.int64) if len(lists_N) == count else None

    def keep_lists(self, start: int, lists_N: ivf.Lists) -> None:
        """Keep the lists of vectors from ``start`` on."""
        with self._lists.open("r+b" if self._lists.exists() else "wb") as file:
            file.seek(4 * start)
            file.write(lists_N.astype(np.int32).tobytes())

    def clear(self) -> None:
        """Remove all that was kept."""
        for path in (self._plan, self._index, self._lists):
            path.unlink(missing_ok=True)


def blocks(vectors_ND: Floats, start: int, size: int) -> Iterator[tuple[int, Floats]]:
    """Read vectors in blocks, each with its first row."""
    for first in range(start, len(vectors_ND), size):
        yield first, np.ascontiguousarray(vectors_ND[first : first + size])


def sample(vectors_ND: Floats, count: int) -> Floats:
    """Read about ``count`` vectors from everywhere, in short runs; all if there are no more."""
    if count >= len(vectors_ND):
        return np.ascontiguousarray(vectors_ND)
    runs = max(count // SAMPLED_RUN, 1)
    starts = np.random.default_rng(0).integers(0, len(vectors_ND) - SAMPLED_RUN, runs)
    rows = np.unique(np.sort(starts)[:, None] + np.arange(SAMPLED_RUN))
    return np.ascontiguousarray(vectors_ND[rows])


def _trained(vectors_ND: Floats, plan: Plan, report: Progress, kept: Scratch | None) -> Any:
    index = None if kept is None else kept.index()
    if index is None:
        report("train", 0, 1)
        sampled_ND = sample(vectors_ND, max(plan.lists * ivf.PER_LIST, ivf.CODE_SAMPLE))
        index = ivf.trained(sampled_ND, plan.kind, plan.lists, fine=plan.fine)
        if kept is not None:
            kept.keep(index)
    report("train", 1, 1)
    return index


def filled(
    empty: NDArray[np.uint8], vectors_ND: Floats, start: int, progress: Progress | None
) -> Any:
    """Make lists of the vectors from ``start`` on, by what was trained on earlier ones."""
    index = faiss.deserialize_index(empty)
    _fill(index, vectors_ND, start, progress or silent, None, unseen)
    return index


def _fill(
    index: Any,
    vectors_ND: Floats,
    start: int,
    report: Progress,
    kept: Scratch | None,
    seen: Seen,
) -> None:
    ivf.allocate(index, len(vectors_ND) - start)
    for first, block_ND in blocks(vectors_ND, start, BLOCK):
        lists_N = None if kept is None else kept.lists(first, len(block_ND))
        if lists_N is None:
            lists_N = ivf.assigned(index, block_ND)
            if kept is not None:
                kept.keep_lists(first, lists_N)
        ivf.add(index, block_ND, lists_N)
        seen(first, block_ND)
        report("add", first + len(block_ND) - start, len(vectors_ND) - start)


def _compared(
    vectors_ND: Floats, plan: Plan, report: Progress, kept: Scratch | None, seen: Seen
) -> Any:
    """Build Flat or HNSW: nothing or little to train."""
    index = None if kept is None or plan.kind is IndexKind.FLAT else kept.index()
    if index is None:
        index = faiss.IndexFlatIP(plan.dimension)
        if plan.kind is IndexKind.HNSW:
            # Its stub wants the whole quantizer where the type of one is taken.
            graph: Any = faiss.IndexHNSWSQ
            index = graph(
                plan.dimension,
                faiss.ScalarQuantizer.QT_8bit,
                HNSW_LINKS,
                faiss.METRIC_INNER_PRODUCT,
            )
            index.train(sample(vectors_ND, ivf.CODE_SAMPLE))
    for first, block_ND in blocks(vectors_ND, 0, GRAPH_BLOCK):
        if first >= index.ntotal:
            append(index, block_ND)
            due = index.ntotal % GRAPH_KEPT_EVERY == 0 and index.ntotal < len(vectors_ND)
            if kept is not None and plan.kind is IndexKind.HNSW and due:
                kept.keep(index)
        seen(first, block_ND)
        report("add", first + len(block_ND), len(vectors_ND))
    return index


def append(index: Any, block_ND: Floats) -> None:
    """Add vectors to Flat or HNSW."""
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = HNSW_BUILD_EF
    index.add(block_ND)


def _recognised(vectors_ND: Floats) -> str:
    rows = np.unique(np.linspace(0, len(vectors_ND) - 1, RECOGNISED_BY).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(vectors_ND[rows]).tobytes()).hexdigest()


def unseen(first: int, block_ND: Floats) -> None:
    """Need no block."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
