"""The one scoring path: offline evaluation and the service both call this, and nothing else does.

    score(x) = cos(q, g(x)) + order_weight * logit P(x after c_L) + T * reranker(x | window, set)

The parts are the mixture's, the order verifier's and, in checkpoints that have one, the set-wise
re-ranker's; all are answered beside their sum. Training-free methods (``direct``, ``mean``) and the
query tower score by cosine alone, in the raw space.

Shapes: B batch, L window, K candidates, N chunks, D dimension. Arrays are float32 numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from models.model import P8Model
from models.order import ExactPairs, one_way_round
from models.packed import Dtype, pack, pack_reranker
from models.rerank import CandidateSets, SetReranker

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

PROJECT_BLOCK = 8192
RERANK_LIMIT = 512
"""Most candidates that the re-ranker looks at together: the best without it."""
NO_MODEL = "model: expected a trained checkpoint, got none"


class Method(StrEnum):
    """Ways to turn a window into a query."""

    P8 = "p8"
    TOWER = "tower"
    DIRECT = "direct"
    MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class Queries:
    """A batch of queries and what they were made from."""

    method: Method
    vectors_BD: Floats
    """Unit queries: in the model's space for ``p8``, in the raw space otherwise."""
    alpha_BL: Floats
    """Mixture weights over the window; one-hot for ``direct``, zeros for ``tower``."""
    context_BLD: Floats
    """Raw context vectors, right-aligned; order part and re-ranker refer to them."""
    mask_BL: Bools
    """True where a context chunk is present."""
    projected_BLD: Floats | None = None
    """Context vectors in the model's space, for ``p8``."""
    rows_BL: NDArray[np.int64] | None = None
    """Where each context chunk stands among candidates that the whole batch shares, if they are a
    document and each window's set is the rest of it: the document is then read once for all."""

    def select(self, rows: NDArray[np.int64]) -> "Queries":
        """Some of the queries."""
        return Queries(
            method=self.method,
            vectors_BD=self.vectors_BD[rows],
            alpha_BL=self.alpha_BL[rows],
            context_BLD=self.context_BLD[rows],
            mask_BL=self.mask_BL[rows],
            projected_BLD=None if self.projected_BLD is None else self.projected_BLD[rows],
            rows_BL=None if self.rows_BL is None else self.rows_BL[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Candidate scores and the parts that sum to them."""

    total_BK: Floats
    mixture_BK: Floats
    order_BK: Floats
    rerank_BK: Floats


class Scorer:
    """Scores candidates with a trained model, or without any.

    Args:
        model: Networks, which are set to evaluation mode, or None for the training-free methods
            alone. Their layers are copied: later changes to them are not followed.
        window: L, used when there is no model.
        order_weight: Weight of the order verifier's log-odds in the score of ``p8``.
        rerank: Whether to use the model's re-ranker, if it has one.
        dtype: What the encoders of window and bag compute in; ``models.packed`` has what changes.

    Raises:
        ValueError: If the processor has no bfloat16, and that is wanted.
    """

    def __init__(
        self,
        model: P8Model | None = None,
        *,
        window: int = 5,
        order_weight: float = 0.0,
        rerank: bool = True,
        dtype: Dtype = "float32",
    ) -> None:
        self.model = None if model is None else model.eval()
        self.dtype = dtype
        self._p8 = None if model is None else pack(model.p8, dtype)
        self._pairs = None if model is None else ExactPairs(model.order)
        self.window = window if model is None else model.config.window
        self.order_weight = order_weight
        self.reranker = None
        if model is not None and model.reranker is not None and rerank:
            self.reranker = pack_reranker(model.reranker, dtype)

    @property
    def judges_raw(self) -> bool:
        """Whether ``p8`` looks at candidates in the raw space, too."""
        return bool(self.order_weight) or self.reranker is not None

    def pack(self, windows: Sequence[Floats]) -> tuple[Floats, Bools]:
        """Right-align windows of 1 to L unit vectors (l, D) into (B, L, D) and a mask (B, L).

        Raises:
            ValueError: If a window is empty or longer than L.
        """
        context_BLD = np.zeros((len(windows), self.window, windows[0].shape[-1]), np.float32)
        mask_BL = np.zeros((len(windows), self.window), np.bool_)
        for row, chunks in enumerate(windows):
            if not 1 <= len(chunks) <= self.window:
                raise ValueError(f"context: expected 1 to {self.window} chunks, got {len(chunks)}")
            context_BLD[row, -len(chunks) :] = chunks
            mask_BL[row, -len(chunks) :] = True
        return context_BLD, mask_BL

    @torch.inference_mode()
    def project(self, chunks_ND: Floats) -> Floats:
        """Map raw unit vectors (N, D) into the space that ``p8`` queries are scored in."""
        if self._p8 is None or self._p8.config.space == "raw":
            return np.ascontiguousarray(chunks_ND, dtype=np.float32)
        projected_ND = np.empty(chunks_ND.shape, np.float32)
        for start in range(0, len(chunks_ND), PROJECT_BLOCK):
            rows = slice(start, start + PROJECT_BLOCK)
            projected_ND[rows] = _numpy(self._p8.project(_tensor(chunks_ND[rows])))
        return projected_ND

    @torch.inference_mode()
    def query(
        self,
        context_BLD: Floats,
        mask_BL: Bools,
        method: Method,
        projected_BLD: Floats | None = None,
    ) -> Queries:
        """Turn windows into queries.

        Args:
            context_BLD: Raw unit vectors, right-aligned, zeros where the mask is False.
            mask_BL: True where a chunk is present; the last column is all True.
            method: Which query to make.
            projected_BLD: The context in the model's space, if it is at hand already.

        Raises:
            ValueError: If ``method`` needs a network that is not there.
        """
        last_BD = np.ascontiguousarray(context_BLD[:, -1])
        alpha_BL = np.zeros(mask_BL.shape, np.float32)
        if method is Method.DIRECT:
            alpha_BL[:, -1] = 1.0
            query_BD = last_BD
        elif method is Method.MEAN:
            alpha_BL = (mask_BL / mask_BL.sum(1, keepdims=True)).astype(np.float32)
            query_BD = _unit(np.einsum("bl,bld->bd", alpha_BL, context_BLD))
        elif method is Method.P8:
            if self._p8 is None:
                raise ValueError(NO_MODEL)
            if projected_BLD is None:
                projected_BLD = self.project(context_BLD)
            output = self._p8.mix(_tensor(projected_BLD), torch.from_numpy(mask_BL))
            query_BD, alpha_BL = _numpy(output.query_BD), _numpy(output.alpha_BL)
        else:
            tower = self._model().tower
            if tower is None:
                raise ValueError("method: expected one that the checkpoint holds, got 'tower'")
            query_BD = _numpy(tower(_tensor(context_BLD), torch.from_numpy(mask_BL)))
        return Queries(
            method=method,
            vectors_BD=query_BD,
            alpha_BL=alpha_BL,
            context_BLD=context_BLD,
            mask_BL=mask_BL,
            projected_BLD=projected_BLD if method is Method.P8 else None,
        )

    @torch.inference_mode()
    def score(
        self,
        queries: Queries,
        raw_BKD: Floats,
        projected_BKD: Floats | None = None,
        valid_BK: Bools | None = None,
    ) -> Scores:
        """Score candidates exactly.

        Args:
            queries: What ``query`` answered.
            raw_BKD: Raw unit candidate vectors, or (K, D) shared by the whole batch.
            projected_BKD: The same in the model's space, if it is at hand already.
            valid_BK: True where a candidate belongs to the query's set, which the re-ranker looks
                at as a whole; all if left out.

        Returns:
            Totals and parts, each (B, K). Those of invalid candidates mean nothing.
        """
        if queries.method is not Method.P8:
            mixture_BK = cosine(queries.vectors_BD, raw_BKD)
            nothing_BK = np.zeros_like(mixture_BK)
            return Scores(
                total_BK=mixture_BK,
                mixture_BK=mixture_BK,
                order_BK=nothing_BK,
                rerank_BK=nothing_BK,
            )
        if projected_BKD is None:
            projected_BKD = self.project(raw_BKD.reshape(-1, raw_BKD.shape[-1]))
            projected_BKD = projected_BKD.reshape(raw_BKD.shape)
        mixture_BK = cosine(queries.vectors_BD, projected_BKD)
        order_BK, rerank_BK = np.zeros_like(mixture_BK), np.zeros_like(mixture_BK)
        reranker = self.reranker
        if self.judges_raw:
            logits_BK = self._order_after_last(queries, raw_BKD)
            if self.order_weight:
                order_BK = np.float32(self.order_weight) * logits_BK
            if reranker is not None:
                judged = (raw_BKD, projected_BKD, mixture_BK, logits_BK, valid_BK)
                rerank_BK = self._rerank_best(reranker, queries, *judged)
        return Scores(
            total_BK=mixture_BK + order_BK + rerank_BK,
            mixture_BK=mixture_BK,
            order_BK=order_BK,
            rerank_BK=rerank_BK,
        )

    def _order_after_last(self, queries: Queries, raw_BKD: Floats) -> Floats:
        raw = _tensor(raw_BKD) if raw_BKD.ndim == 3 else _tensor(raw_BKD)[None]
        return _numpy(self._model().order(_tensor(queries.context_BLD[:, -1])[:, None], raw))

    def _rerank_best(
        self,
        reranker: SetReranker,
        queries: Queries,
        raw_BKD: Floats,
        projected_BKD: Floats,
        mixture_BK: Floats,
        logits_BK: Floats,
        valid_BK: Bools | None,
    ) -> Floats:
        """The re-ranker's part, for the best candidates of a large set alone.

        All others get the least part of any that was looked at, so that none of them overtakes.
        """
        if mixture_BK.shape[1] <= RERANK_LIMIT:
            return self._rerank(
                reranker, queries, raw_BKD, projected_BKD, mixture_BK, logits_BK, valid_BK
            )
        base_BK = mixture_BK + np.float32(self.order_weight) * logits_BK
        if valid_BK is not None:
            base_BK = np.where(valid_BK, base_BK, -np.inf).astype(np.float32)
        best_BK = np.sort(best_first(base_BK, RERANK_LIMIT), axis=1)
        rows_B1 = np.arange(len(best_BK))[:, None]
        valid_bk = None if valid_BK is None else valid_BK[rows_B1, best_BK]
        raw, projected = (
            part[best_BK] if part.ndim == 2 else part[rows_B1, best_BK]
            for part in (raw_BKD, projected_BKD)
        )
        chosen = (mixture_BK[rows_B1, best_BK], logits_BK[rows_B1, best_BK], valid_bk)
        part_bk = self._rerank(reranker, queries, raw, projected, *chosen)
        judged_bk = part_bk if valid_bk is None else np.where(valid_bk, part_bk, np.inf)
        rerank_BK = np.repeat(judged_bk.min(1, keepdims=True), mixture_BK.shape[1], axis=1)
        rerank_BK[rows_B1, best_BK] = part_bk
        return rerank_BK.astype(np.float32)

    def _rerank(
        self,
        reranker: SetReranker,
        queries: Queries,
        raw_BKD: Floats,
        projected_BKD: Floats,
        mixture_BK: Floats,
        order_BK: Floats,
        valid_BK: Bools | None,
    ) -> Floats:
        """The re-ranker's part, in the unit of cosines."""
        valid = (
            torch.ones(mixture_BK.shape, dtype=torch.bool)
            if valid_BK is None
            else torch.from_numpy(valid_BK)
        )
        context_BLD = _tensor(queries.context_BLD)
        raw, projected = (
            _tensor(part if part.ndim == 3 else part[None]) for part in (raw_BKD, projected_BKD)
        )
        projected_BLD = queries.projected_BLD
        if projected_BLD is None:
            projected_BLD = self.project(queries.context_BLD)
        sets = CandidateSets(
            raw_context_BLD=context_BLD,
            context_BLD=_tensor(projected_BLD),
            mask_BL=torch.from_numpy(queries.mask_BL),
            raw_XKD=raw,
            projected_XKD=projected,
            valid_BK=valid,
            base_BK=_tensor(mixture_BK),
            order_BK=_tensor(order_BK),
        )
        unit = np.float32(self._model().config.temperature)
        if queries.rows_BL is None or raw_BKD.ndim == 3:
            return unit * _numpy(reranker(sets))
        whole = reranker.bag(raw, torch.ones(raw.shape[:2], dtype=torch.bool))
        logits_BK = reranker.judge(whole, torch.from_numpy(queries.rows_BL), sets)
        return unit * _numpy(logits_BK)

    @torch.inference_mode()
    def order_logits(self, a_ND: Floats, b_ND: Floats) -> Floats:
        """Calibrated log-odds (N,) that b comes after a; exactly negated when a and b swap."""
        swap_N, first_ND, second_ND = one_way_round(a_ND, b_ND)
        logits_N = _numpy(self._model().order(_tensor(first_ND), _tensor(second_ND)))
        return np.where(swap_N, -logits_N, logits_N)

    def order_probability(self, a_ND: Floats, b_ND: Floats) -> NDArray[np.float64]:
        """P(b after a) for each pair, (N,); swapping a and b gives exactly 1 minus it.

        That holds when the two are asked in different company, too.
        """
        if self._pairs is None:
            raise ValueError(NO_MODEL)
        return self._pairs.probability(a_ND, b_ND)

    def _model(self) -> P8Model:
        if self.model is None:
            raise ValueError(NO_MODEL)
        return self.model


def cosine(query_BD: Floats, candidates_BKD: Floats) -> Floats:
    """Dot products (B, K) of queries with their own (B, K, D) or shared (K, D) candidates."""
    if candidates_BKD.ndim == 2:
        return np.asarray(query_BD @ candidates_BKD.T, np.float32)
    return np.asarray(np.einsum("bd,bkd->bk", query_BD, candidates_BKD), np.float32)


def best_first(scores_BK: Floats, top_k: int | None = None) -> NDArray[np.int64]:
    """Columns by falling score, (B, top_k); equal scores keep their column order."""
    order_BK = np.argsort(-scores_BK, axis=-1, kind="stable")
    return order_BK[:, :top_k].astype(np.int64)


def cos_anchor(query_BD: Floats, context_BLD: Floats, mask_BL: Bools) -> NDArray[np.float64]:
    """Cosine (B,) between each query and its orthogonal projection onto span(context).

    1 for every constrained mixture in its own space; lower for a query that left the span.
    """
    anchors = np.empty(len(query_BD))
    for row, (query_D, chunks_LD, mask_L) in enumerate(
        zip(query_BD, context_BLD, mask_BL, strict=True)
    ):
        basis_Dl = chunks_LD[mask_L].T.astype(np.float64)
        weights, *_ = np.linalg.lstsq(basis_Dl, query_D.astype(np.float64), rcond=None)
        shadow_D = basis_Dl @ weights
        anchors[row] = float(np.linalg.norm(shadow_D)) / max(float(np.linalg.norm(query_D)), 1e-12)
    return anchors


def _unit(rows_ND: Floats) -> Floats:
    norms_N: Floats = np.linalg.norm(rows_ND, axis=-1, keepdims=True).astype(np.float32)
    safe_N: Floats = np.maximum(norms_N, np.float32(1e-12))
    return rows_ND / safe_N


def _tensor(array: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.numpy(), np.float32)
