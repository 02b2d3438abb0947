"""Windows: which chunks are context, which comes next, and which stood just before.

Shapes: W windows, L window length.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Windows(NamedTuple):
    """Windows of one document; all rows count from the document's first chunk."""

    next_W: Rows
    """Row of the chunk to be found."""
    prev_W: Rows
    """Row of the chunk just before the window, the mirror image of next; -1 where there is none."""
    context_WL: Rows
    """Rows of the context, right-aligned; 0 where the mask is False."""
    mask_WL: NDArray[np.bool_]
    """True where a context chunk is present."""

    def select(self, rows: slice | Rows | NDArray[np.bool_]) -> "Windows":
        """Some of the windows."""
        return Windows(
            self.next_W[rows], self.prev_W[rows], self.context_WL[rows], self.mask_WL[rows]
        )


def document_windows(count: int, window: int, *, full_only: bool = False) -> Windows:
    """All windows of a document.

    Args:
        count: Chunks in the document.
        window: L, the greatest number of context chunks.
        full_only: Leave out the short windows at the document's start.

    Returns:
        One window for every chunk that has a predecessor (or L of them).
    """
    next_W = np.arange(window if full_only else 1, count, dtype=np.int64)
    context_WL = next_W[:, None] + np.arange(-window, 0)
    mask_WL = context_WL >= 0
    prev_W = np.maximum(next_W - window - 1, -1)
    return Windows(next_W, prev_W, np.where(mask_WL, context_WL, 0), mask_WL)


def hide_context(windows: Windows, count: int) -> NDArray[np.bool_]:
    """Candidate mask (W, count): every chunk of the document outside the window."""
    allowed_WN = np.ones((len(windows.next_W), count), np.bool_)
    rows_W = np.arange(len(windows.next_W))[:, None]
    # A padded place points at row 0, which a short window holds anyway: it starts the document.
    allowed_WN[rows_W, windows.context_WL] = False
    return allowed_WN
