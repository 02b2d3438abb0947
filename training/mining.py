"""Hard negatives from other documents: what an index over all of them would retrieve.

Shapes: N chunks of all documents, Q chunks that ask, M negatives a document, D dimension.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.index import VectorIndex
from models.scoring import Floats

QUERIES_PER_DOCUMENT = 4
DEPTH = 64
BLOCK = 4096

Rows = NDArray[np.int64]


class Mined(NamedTuple):
    """For each document M chunks of others, (documents, M) each; -1 where there are too few."""

    document: Rows
    """Which document a chunk belongs to."""
    row: Rows
    """Its row in that document."""

    def vectors(self, documents: Sequence[Floats], number: int) -> Floats:
        """The negatives of one document, (m, D)."""
        found = [
            documents[other][row]
            for other, row in zip(self.document[number], self.row[number], strict=True)
            if other >= 0
        ]
        return np.stack(found) if found else np.zeros((0, documents[number].shape[1]), np.float32)


def mine_negatives(documents: Sequence[Floats], per_document: int, seed: int) -> Mined:
    """For each document the chunks of others that lie nearest to some of its own.

    Args:
        documents: Unit vectors (n, D) of each document.
        per_document: M.
        seed: Seed of which chunks ask.
    """
    generator = np.random.default_rng(seed)
    counts = np.array([len(document) for document in documents])
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner_N = np.repeat(np.arange(len(documents)), counts)
    everything_ND = np.concatenate(documents)
    index = VectorIndex.build(everything_ND, "flat")
    asking_Q = np.concatenate(
        [
            start + generator.choice(count, min(count, QUERIES_PER_DOCUMENT), replace=False)
            for start, count in zip(starts, counts, strict=False)
        ]
    )
    found = [
        index.search(everything_ND[asking_Q[first : first + BLOCK]], min(DEPTH, len(owner_N)))
        for first in range(0, len(asking_Q), BLOCK)
    ]
    scores_QK, rows_QK = (np.concatenate(part) for part in zip(*found, strict=True))
    mined = Mined(*(np.full((len(documents), per_document), -1, np.int64) for _ in range(2)))
    asker_Q = owner_N[asking_Q]
    for number in range(len(documents)):
        mine_Q = asker_Q == number
        best: dict[int, float] = {}
        for score, row in zip(scores_QK[mine_Q].ravel(), rows_QK[mine_Q].ravel(), strict=True):
            if row >= 0 and owner_N[row] != number:
                best[int(row)] = max(best.get(int(row), -np.inf), float(score))
        chosen = np.array(sorted(best, key=lambda row: -best[row])[:per_document], np.int64)
        mined.document[number, : len(chosen)] = owner_N[chosen]
        mined.row[number, : len(chosen)] = chosen - starts[owner_N[chosen]]
    return mined
