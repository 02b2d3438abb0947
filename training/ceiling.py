"""The ceiling of a space: how well any mixture of the window could do, the answer being known.

For each window the weights ``alpha >= 0`` that bring the mixture closest to the true next chunk
are found by non-negative least squares; ranking by that mixture bounds what training can reach by
mixing alone. (The order part of the score is not bound by it.)
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from training.metrics import Tally, add_ranks, target_ranks
from training.protocols import DocumentVectors
from training.windows import document_windows, hide_context


def tally_ceiling(documents: Sequence[DocumentVectors], window: int) -> Tally:
    """``in_document`` metrics of the best mixture of every window, in the projected space."""
    tally = Tally()
    for document in documents:
        space_ND = document.projected_ND.astype(np.float64)
        windows = document_windows(len(space_ND), window)
        query_WD = np.zeros((len(windows.next_W), space_ND.shape[1]))
        for row, target in enumerate(windows.next_W):
            context_lD = space_ND[windows.context_WL[row][windows.mask_WL[row]]]
            alpha_l, _ = nnls(context_lD.T, space_ND[target])
            # No weight helps when every context vector points away: fall back to the last chunk.
            query_WD[row] = alpha_l @ context_lD if alpha_l.any() else context_lD[-1]
        query_WD /= np.linalg.norm(query_WD, axis=1, keepdims=True)
        scores_WN = np.where(hide_context(windows, len(space_ND)), query_WD @ space_ND.T, -np.inf)
        add_ranks(tally, target_ranks(scores_WN.astype(np.float32), windows.next_W))
    return tally
