"""The types of index, what each takes, and which is chosen.

Shapes: N vectors, D dimension.
"""

import math
from enum import StrEnum

FLAT_UP_TO = 20_000
HNSW_UP_TO = 200_000
HNSW_LINKS = 32
"""Links a vector on each level of the graph but the lowest, which has twice as many."""
LEAST_LISTS, MOST_LISTS = 16, 65_536


class IndexKind(StrEnum):
    """How vectors are searched. docs/indexes.md says which when, with measurements."""

    FLAT = "flat"
    """Compares all: exact."""
    HNSW = "hnsw"
    """Walks a graph over codes of a byte a dimension, and compares the best by their vectors."""
    IVF_SQ8 = "ivf_sq8"
    """Compares codes of a byte a dimension in the nearest lists, and the best by their vectors."""
    IVF_RABITQ = "ivf_rabitq"
    """Compares codes of a bit a dimension (RaBitQ) in the nearest lists, the best of them by
    codes of a byte a dimension where the budget allows for these, and the best by their vectors."""


class BudgetError(ValueError):
    """No type of index fits the memory that it may take."""


IVF = frozenset({IndexKind.IVF_SQ8, IndexKind.IVF_RABITQ})


def bytes_per_vector(kind: IndexKind, dimension: int, *, fine: bool = True) -> int:
    """What a vector takes in memory, beside the stored one.

    Args:
        kind: Type of index.
        dimension: D.
        fine: Whether ``ivf_rabitq`` keeps a byte a dimension, too.
    """
    row_number = 8
    match kind:
        case IndexKind.FLAT:
            return 4 * dimension
        case IndexKind.HNSW:
            # A link takes four bytes; offset and level are twelve more.
            return dimension + 8 * HNSW_LINKS + 16
        case IndexKind.IVF_SQ8:
            return dimension + row_number
        case IndexKind.IVF_RABITQ:
            factors = 8
            return math.ceil(dimension / 8) + factors + row_number + (dimension if fine else 0)


def choose(
    size: int, dimension: int, budget_bytes: int | None, asked: IndexKind | None = None
) -> tuple[IndexKind, bool]:
    """Choose the fastest type that a size and a budget allow.

    Args:
        size: N.
        dimension: D.
        budget_bytes: Most memory that the index may take beside the stored vectors; None for any.
        asked: The only type that may be chosen, if there is one.

    Returns:
        The type, and whether ``ivf_rabitq`` keeps fine codes.

    Raises:
        BudgetError: If no type fits.
    """
    if size <= FLAT_UP_TO:
        first = IndexKind.FLAT
    elif size <= HNSW_UP_TO:
        first = IndexKind.HNSW
    else:
        first = IndexKind.IVF_RABITQ
    if budget_bytes is None:
        return asked or first, True
    wanted = [
        (first, True),
        (IndexKind.IVF_RABITQ, True),
        (IndexKind.IVF_SQ8, True),
        (IndexKind.IVF_RABITQ, False),
    ]
    if asked is not None:
        fallback = [(asked, False)] if asked is IndexKind.IVF_RABITQ else []
        wanted = [(asked, True), *fallback]
    for kind, fine in wanted:
        least = needed_bytes(kind, size, dimension, fine=fine)
        if least <= budget_bytes:
            return kind, fine
    raise BudgetError(
        f"budget_bytes: expected at least {least} for {size} vectors of {dimension} dimensions, "
        f"got {budget_bytes}"
    )


def needed_bytes(kind: IndexKind, size: int, dimension: int, *, fine: bool = True) -> int:
    """What an index of ``size`` vectors takes in memory, beside the stored ones."""
    centroids = lists_for(size) * dimension * 4 if kind in IVF else 0
    return size * bytes_per_vector(kind, dimension, fine=fine) + centroids


def lists_for(size: int) -> int:
    """How many inverted lists serve a size: a power of two near 1.5 times its root."""
    wanted: int = 2 ** round(math.log2(1.5 * math.sqrt(size)))
    return min(max(wanted, LEAST_LISTS), MOST_LISTS, max(size // 8, 1))
