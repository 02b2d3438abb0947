"""Inverted lists: trained on a sample, filled block by block, compared by their codes.

Each vector belongs to the list of its nearest centroid, and a query is compared with what is in the
lists nearest to it. Vectors are of unit length, so the nearest by Euclidean distance, in which
these indexes compute, are those of the highest cosine.

Shapes: N vectors, L lists, C centroids of one group, D dimension.
"""

from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from models.index.kinds import IndexKind
from models.scoring import Floats

ITERATIONS, MENDING = 8, 3
PER_LIST = 64
"""Vectors of the sample for each list."""
CODE_SAMPLE = 50_000
"""Vectors from which the ranges of codes are learned."""
QUERY_BITS = 4
"""Bits a dimension of a query when it is compared with codes of one bit."""

Lists = NDArray[np.int64]


def trained(sample_ND: Floats, kind: IndexKind, lists: int, *, fine: bool) -> Any:
    """Make an index without vectors that knows its centroids and the ranges of its codes.

    Args:
        sample_ND: Vectors of the kind that are to come.
        kind: ``ivf_sq8`` or ``ivf_rabitq``.
        lists: L.
        fine: Whether ``ivf_rabitq`` keeps a byte a dimension beside, in the order of rows.
    """
    dimension = sample_ND.shape[1]
    quantizer = faiss.IndexFlatL2(dimension)
    quantizer.add(centroids(sample_ND, lists))
    codes_ND = np.ascontiguousarray(sample_ND[:: max(len(sample_ND) // CODE_SAMPLE, 1)])
    index: Any
    if kind is IndexKind.IVF_SQ8:
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
        )
    else:
        index = faiss.IndexIVFRaBitQ(quantizer, dimension, lists, faiss.METRIC_L2)
        index.qb = QUERY_BITS
    index.train(codes_ND)
    _hand_over(index, quantizer)
    if kind is IndexKind.IVF_SQ8 or not fine:
        return index
    codes: Any = faiss.IndexScalarQuantizer(
        dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    codes.train(codes_ND)
    refining = faiss.IndexRefine(index, codes)
    index.this.disown()
    codes.this.disown()
    refining.own_fields = refining.own_refine_index = True
    return refining


def centroids(sample_ND: Floats, lists: int) -> Floats:
    """Cluster in groups first, then within each of them, and last as a whole for a few rounds."""
    groups = max(round(lists**0.5), 1)
    if groups < 8:
        return _clustered(sample_ND, lists)
    group_N = _kmeans(sample_ND, groups).assign(sample_ND)[1]
    counts = np.bincount(group_N, minlength=groups)
    ends = np.cumsum(counts) * lists // len(sample_ND)
    shares = np.diff(ends, prepend=0)
    parts = [
        _clustered(sample_ND[group_N == group], int(share))
        for group, share in enumerate(shares)
        if share
    ]
    start_LD = np.concatenate(parts)
    # Two levels leave lists of uneven lengths; a few rounds over all of them mend that.
    return _clustered(sample_ND, lists, start_LD)


def _clustered(sample_ND: Floats, count: int, start_LD: Floats | None = None) -> Floats:
    return np.asarray(_kmeans(sample_ND, count, start_LD).centroids, np.float32)


def _kmeans(sample_ND: Floats, count: int, start_LD: Floats | None = None) -> Any:
    clusters = faiss.Kmeans(
        sample_ND.shape[1],
        count,
        niter=ITERATIONS if start_LD is None else MENDING,
        max_points_per_centroid=len(sample_ND),
        min_points_per_centroid=1,
        seed=1,
    )
    clusters.train(np.ascontiguousarray(sample_ND), init_centroids=start_LD)
    return clusters


def lists_of(index: Any) -> Any:
    """The inverted lists themselves, without what refines them."""
    return faiss.downcast_index(index.base_index) if refines(index) else index


def refines(index: Any) -> bool:
    """Whether it keeps fine codes, too."""
    return isinstance(index, faiss.IndexRefine)


def assigned(index: Any, block_ND: Floats) -> Lists:
    """Find the list of each vector."""
    quantizer = lists_of(index).quantizer
    return np.ascontiguousarray(quantizer.search(block_ND, 1)[1][:, 0])


def allocate(index: Any, size: int) -> None:
    """Make room for so many fine codes at once, since what grows step by step takes twice that."""
    if refines(index):
        fine: Any = faiss.downcast_index(index.refine_index)
        fine.codes.resize(size * fine.code_size)


def add(index: Any, block_ND: Floats, lists_N: Lists) -> None:
    """Append vectors whose lists are known, after ``allocate``."""
    coarse = lists_of(index)
    coarse.add_core(len(block_ND), faiss.swig_ptr(block_ND), None, faiss.swig_ptr(lists_N))
    if refines(index):
        fine: Any = faiss.downcast_index(index.refine_index)
        codes = faiss.rev_swig_ptr(fine.codes.data(), fine.codes.size()).reshape(-1, fine.code_size)
        codes[fine.ntotal : coarse.ntotal] = fine.sa_encode(block_ND)
        fine.ntotal = index.ntotal = coarse.ntotal


def found(
    index: Any, query_BD: Floats, count: int, *, probes: int, candidates: int, selector: Any
) -> NDArray[np.int64]:
    """Find the rows that are nearest by codes, (B, count), -1 where there are no more.

    Args:
        index: Filled lists.
        query_BD: Unit queries.
        count: Rows wanted a query.
        probes: Lists that are looked into.
        candidates: Rows that the fine codes are asked about, where there are such.
        selector: FAISS's, or None.
    """
    limits = {} if selector is None else {"sel": selector}
    params = faiss.SearchParametersIVF(nprobe=probes, **limits)  # type: ignore[call-arg]
    if refines(index):
        params = faiss.IndexRefineSearchParameters(  # type: ignore[assignment,call-arg]
            k_factor=max(candidates, count) / count, base_index_params=params
        )
    return cast("NDArray[np.int64]", index.search(query_BD, count, params=params)[1])


def _hand_over(index: Any, quantizer: Any) -> None:
    quantizer.this.disown()
    index.own_fields = True
