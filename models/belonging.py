"""Which chunks of a bag belong together, which do not, and which are there twice.

A chunk is judged by its cosines to the others alone, in the embedding model's own space, so that no
checkpoint is needed. Chunks of one document resemble each other on the whole; a foreign one
resembles none of them, or only its like. What others say of a chunk counts by how far they
themselves are trusted, so that a few foreign chunks of one origin cannot vouch for each other.

Copies count once. Everything is computed over the distinct chunks in the order of their numbers, so
that a shuffled bag gets the same values to the last bit.

Shapes: N chunks of a bag, U distinct ones, D dimension, F features.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.scoring import Floats

Values = NDArray[np.float64]
Rows = NDArray[np.int64]

FEATURES = ("near", "company")
"""See ``belonging_features``."""
WEIGHTS = (8.10, -4.82)
INTERCEPT = -1.42
UNTOLD = 0.9
"""Answered where a chunk cannot be compared with several: the part of all bags that is taken to
hold no foreign chunk."""
DUPLICATE = 0.999
"""Cosine from which two chunks are the same. Pairs that are word for word the same all lie at
0.9999 or more; the few others beyond 0.999 differ in a character or a word; below stand paragraphs
with other figures (docs/LOG.md)."""

FLOOR = 0.05
"""Least median likeness to be divided by: in a bag of less, nothing belongs to anything."""
TRUST_PASSES = 5
TRUST_HALF = 0.45
TRUST_SLOPE = 8.0
TINY = 1e-9


def belonging(raw_ND: Floats) -> Values:
    """Probability (N,) of each chunk that it is of the same document as the rest of its bag.

    A logistic regression on ``belonging_features``, fitted on bags of 3 to 100 all-MiniLM-L6-v2
    vectors from validation documents of four kinds (articles of eLife and on plant science, PEPs,
    novels). Nine in ten bags were taken to be clean; of the others one chunk, 10% or 20% were
    foreign. To refit it for another embedding model: ``python -m training belonging --fit --split
    validation DIR...``. The features are ratios of cosines, so the dimension does not matter; but
    where unrelated texts have high cosines, fewer foreign chunks will be found.

    Among two distinct chunks nothing can be told, and both get ``UNTOLD``.

    Args:
        raw_ND: Unit vectors, as the embedding model gives them.
    """
    distinct_UD, inverse_N = _distinct(raw_ND)
    if len(distinct_UD) <= 2:
        return np.full(len(raw_ND), UNTOLD)
    near_U, company_U = belonging_features(distinct_UD).T
    logit_U = INTERCEPT + WEIGHTS[0] * near_U + WEIGHTS[1] * company_U
    probability_U: Values = 1.0 / (1.0 + np.exp(-logit_U))
    return probability_U[inverse_N]


def belonging_features(distinct_UD: Floats) -> Values:
    """What speaks for and against each of three distinct chunks or more, (U, F).

    Trust is found in a few passes: the mean cosine to the others, weighted by their trust, over the
    bag's median, makes a chunk's own. ``near``: cosines times trust, the mean of the greatest
    ``sqrt(U - 1)``, over the bag's median. ``company``: the untrusted part of a chunk's positive
    cosines.
    """
    vectors_UD = distinct_UD.astype(np.float64)
    count = len(vectors_UD)
    cosine_UU = vectors_UD @ vectors_UD.T
    np.fill_diagonal(cosine_UU, 0.0)
    trust_U = np.ones(count)
    for _ in range(TRUST_PASSES):
        likeness_U = cosine_UU @ trust_U / np.maximum(trust_U.sum() - trust_U, TINY)
        trust_U = 1.0 / (1.0 + np.exp(-TRUST_SLOPE * (_over_median(likeness_U) - TRUST_HALF)))
    nearest = math.ceil(math.sqrt(count - 1))
    trusted_UU = cosine_UU * trust_U
    np.fill_diagonal(trusted_UU, -np.inf)
    near_U = np.sort(trusted_UU, axis=1)[:, -nearest:].mean(1)
    positive_UU = np.maximum(cosine_UU, 0.0)
    company_U = positive_UU @ (1.0 - trust_U) / np.maximum(positive_UU.sum(1), TINY)
    return np.column_stack([_over_median(near_U), company_U])


def duplicates(raw_ND: Floats) -> list[tuple[int, int]]:
    """Pairs of rows (i, j), i < j, whose chunks are the same: of cosine 0.999 or more."""
    vectors_ND = raw_ND.astype(np.float64)
    same_NN = np.triu(vectors_ND @ vectors_ND.T >= DUPLICATE, 1)
    return [(int(first), int(second)) for first, second in np.argwhere(same_NN)]


def canonical_rows(raw_ND: Floats) -> Rows:
    """Rows (N,) sorted by their numbers: the same chunks in the same order, however shuffled.

    Equal chunks keep the bag's own order.
    """
    return np.argsort(_distinct(raw_ND)[1], kind="stable").astype(np.int64)


def _distinct(raw_ND: Floats) -> tuple[Floats, Rows]:
    """The distinct chunks (U, D), sorted, and which of them each row is (N,)."""
    distinct_UD, inverse_N = np.unique(raw_ND, axis=0, return_inverse=True)
    return distinct_UD, inverse_N.reshape(-1).astype(np.int64)


def _over_median(values_U: Values) -> Values:
    return values_U / max(float(np.median(values_U)), FLOOR)
