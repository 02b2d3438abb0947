"""Searching the parts of an index, and scoring what they find by the stored vectors.

Shapes: B queries, N indexed vectors, K results, C candidates, D dimension.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from models.index import ivf
from models.index.building import Plan
from models.index.files import Part, Rows
from models.index.kinds import IVF, IndexKind
from models.index.tuning import Width
from models.scoring import Bools, Floats

LEAST_SHARE = 1 / 16
"""Below this share of allowed rows, a graph is not walked wider still."""
CANDIDATES_PER_RESULT = 3
MORE_THAN_WANTED = 16
"""Rows scored by their vectors beyond those wanted, at least, since codes order them roughly."""


def search_parts(
    parts: tuple[Part, ...],
    plan: Plan,
    width: Width,
    vectors_ND: Floats | None,
    query_BD: Floats,
    k: int,
    allowed_N: Bools | None,
    effort: int,
) -> tuple[Floats, Rows]:
    """Find the ``k`` best rows of each query; as ``VectorIndex.search``."""
    if plan.kind is IndexKind.FLAT or vectors_ND is None:
        return _compared(parts[0], width, query_BD, k, allowed_N, effort)
    rows = []
    for part in parts:
        here_N = None if allowed_N is None else allowed_N[part.first : part.first + part.size]
        if plan.kind in IVF:
            rows_BC = _listed(part, plan, width, query_BD, k, here_N, effort)
        else:
            count = min(_scored(k), part.size)
            rows_BC = _compared(part, width, query_BD, count, here_N, effort)[1]
        rows.append(np.where(rows_BC >= 0, rows_BC + part.first, -1))
    return best_of(vectors_ND, query_BD, np.concatenate(rows, axis=1), k)


def best_of(vectors_ND: Floats, query_BD: Floats, rows_BC: Rows, k: int) -> tuple[Floats, Rows]:
    """Score candidates by their vectors; the best ``k`` of each query, level ones by row."""
    scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
    rows_BK = np.full((len(query_BD), k), -1, np.int64)
    for line, (query_D, rows_C) in enumerate(zip(query_BD, rows_BC, strict=True)):
        # Rising, so that a disk is read in one direction.
        rows_C = np.sort(rows_C[rows_C >= 0])
        scores_C = vectors_ND[rows_C] @ query_D
        best = np.argsort(-scores_C, kind="stable")[:k]
        scores_BK[line, : len(best)] = scores_C[best]
        rows_BK[line, : len(best)] = rows_C[best]
    return scores_BK, rows_BK


def _scored(k: int) -> int:
    return k + MORE_THAN_WANTED


def _listed(
    part: Part,
    plan: Plan,
    width: Width,
    query_BD: Floats,
    k: int,
    allowed_N: Bools | None,
    effort: int,
) -> NDArray[np.int64]:
    """Search inverted lists."""
    probes: float = width.probes * effort
    if allowed_N is not None:
        # Where little is allowed, as much of it as otherwise is found in more lists.
        probes = probes / max(float(allowed_N.mean()), 1 / plan.lists)
    candidates = effort * max(width.candidates, CANDIDATES_PER_RESULT * k)
    return ivf.found(
        part.index,
        query_BD,
        min(_scored(k) if plan.fine else candidates, part.size),
        probes=min(int(np.ceil(probes)), plan.lists),
        candidates=min(candidates, part.size),
        selector=_selector(allowed_N),
    )


def _compared(
    part: Part,
    width: Width,
    query_BD: Floats,
    k: int,
    allowed_N: Bools | None,
    effort: int,
) -> tuple[Floats, Rows]:
    """Search Flat or HNSW, with the scores that they give."""
    arguments: dict[str, Any] = {}
    share = 1.0
    if allowed_N is not None:
        share = max(float(allowed_N.mean()), LEAST_SHARE)
        arguments["sel"] = _selector(allowed_N)
    params = None
    if isinstance(part.index, faiss.IndexHNSW):
        # The graph is walked through rows that may not be answered, too.
        ef = int(effort * max(width.ef, 3 * k // 2) / share)
        params = faiss.SearchParametersHNSW(efSearch=ef, **arguments)  # type: ignore[attr-defined]
    elif arguments:
        params = faiss.SearchParameters(**arguments)
    scores_BK, rows_BK = part.index.search(query_BD, k, params=params)
    scores_BK[rows_BK < 0] = -np.inf
    return scores_BK, rows_BK


def _selector(allowed_N: Bools | None) -> Any:
    if allowed_N is None:
        return None
    # Its stub knows the C++ constructor alone; Python's takes the array.
    bitmap: Any = np.packbits(allowed_N, bitorder="little")
    return faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg]
