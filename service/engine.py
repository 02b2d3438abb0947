"""Answers requests: decode → validate → query → search → re-rank → encode.

An engine is built once the library is loaded, holds no state that a request changes, and is called
from worker threads, never on the event loop.

Shapes: B = 1 query, L window, K candidates, D dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.index import FLAT_UP_TO, Rows
from models.ranking import RERANK_DEPTH, rank_rows
from models.scoring import Floats, Method, Queries, Scorer, best_first, cosine
from service.decode import Candidates, Decoder, Embed, Scope, Window
from service.encode import Encoder, Hit
from service.errors import BatchTooLargeError, DeadlineError
from service.library import Library
from service.modes import Choice, Mode, ModelState, choose, out_of_time, require_order
from service.schemas import (
    OrderBatch,
    OrderPair,
    RankBatch,
    RankQuery,
    ScoreQuery,
    check,
)
from service.settings import Settings
from service.timing import Deadline, Stages


@dataclass(frozen=True, kw_only=True)
class Task:
    """One decoded rank query."""

    window: Window
    candidates: Candidates | None
    scope: Scope
    top_k: int
    scorer: Scorer
    """With the re-ranker, or without."""


class Engine:
    """Ranks, scores and orders with one library and one model state.

    Args:
        library: Loaded chunks and indexes.
        state: What became of the checkpoint.
        settings: Limits.
        embed: Turns texts into unit vectors (n, D).
    """

    def __init__(
        self, library: Library, state: ModelState, settings: Settings, embed: Embed
    ) -> None:
        self.library = library
        self.state = state
        self._plain = state.scorer(rerank=False)
        self.scorer = state.scorer() if settings.rerank else self._plain
        self._settings = settings
        self._encoder = Encoder(library, state)
        self._decoder = Decoder(
            library,
            window=self.scorer.window,
            candidates_limit=settings.candidates_limit,
            embed=embed,
        )

    def rank(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/rank``: one query, or a batch of them.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
        """
        if not (isinstance(body, dict) and "queries" in body):
            return self._rank_one(check(RankQuery, body), "", stages, deadline)
        queries = check(RankBatch, body).queries
        self._check_batch(queries, "queries")
        return {
            "answers": [
                self._rank_one(query, f"queries.{place}.", stages, deadline)
                for place, query in enumerate(queries)
            ]
        }

    def score(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/score``: explicit candidates, in the given order.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
        """
        query = check(ScoreQuery, body)
        own = Stages()
        with own.stage("decode"):
            window = self._decoder.window(query)
            candidates = self._decoder.candidates(query.candidates)
        wanted = Mode(query.mode)
        choice = choose(wanted, self.state)
        if deadline.passed and wanted is not Mode.AUTO:
            raise _too_late(deadline)
        if deadline.passed and choice.method is not Method.DIRECT:
            choice = out_of_time()
        with own.stage("query"):
            queries = self._query(window, choice.method)
        with own.stage("rerank"):
            hits = self._score_all(self._scorer(query), queries, candidates)
        return self._encode(choice, queries, window, hits, own, stages)

    def order(self, body: object, stages: Stages) -> dict[str, Any]:
        """Answer ``/v1/order``: one pair, or several.

        Raises:
            ServiceError: If the request is at fault or there is no usable verifier.
        """
        if not (isinstance(body, dict) and "pairs" in body):
            return self._order_one(check(OrderPair, body), "", stages)
        pairs = check(OrderBatch, body).pairs
        self._check_batch(pairs, "pairs")
        return {
            "answers": [
                self._order_one(pair, f"pairs.{place}.", stages) for place, pair in enumerate(pairs)
            ]
        }

    def warm_up(self) -> None:
        """Run one query of every kind, so that the first caller does not pay for lazy set-up."""
        window = Window(raw_LD=self.library.corpus.raw_ND[:1], rows=np.zeros(1, np.int64))
        scope = Scope(allowed=None, excluded=window.rows)
        task = Task(window=window, candidates=None, scope=scope, top_k=1, scorer=self.scorer)
        for wanted in (Mode.AUTO, Mode.RETRIEVAL):
            self._rank_steps(task, choose(wanted, self.state), Stages(), None)

    def _rank_one(
        self, query: RankQuery, prefix: str, stages: Stages, deadline: Deadline
    ) -> dict[str, Any]:
        own = Stages()
        with own.stage("decode"):
            task = self._decode(query, prefix)
        choice, queries, hits = self._rank_in_time(task, Mode(query.mode), own, deadline)
        neighbours = None
        if query.explain:
            retrieval = choose(Mode.RETRIEVAL, self.state)
            with own.stage("explain"):
                _, near = self._rank_steps(task, retrieval, Stages(), None)
            neighbours = (retrieval, near)
        return self._encode(choice, queries, task.window, hits, own, stages, neighbours)

    def _decode(self, query: RankQuery, prefix: str) -> Task:
        window = self._decoder.window(query, prefix)
        scope = self._decoder.scope(query, window)
        candidates = None
        if query.candidates is not None:
            candidates = self._decoder.candidates(query.candidates, prefix)
        return Task(
            window=window,
            candidates=candidates,
            scope=scope,
            top_k=query.top_k,
            scorer=self._scorer(query),
        )

    def _scorer(self, query: RankQuery | ScoreQuery) -> Scorer:
        return self.scorer if query.rerank else self._plain

    def _rank_in_time(
        self, task: Task, wanted: Mode, own: Stages, deadline: Deadline
    ) -> tuple[Choice, Queries, list[Hit]]:
        choice = choose(wanted, self.state)
        # DIRECT is what auto falls back to, so there is nothing quicker to hurry to.
        patient = wanted is Mode.AUTO and choice.method is Method.DIRECT
        try:
            return choice, *self._rank_steps(task, choice, own, None if patient else deadline)
        except DeadlineError:
            if wanted is not Mode.AUTO:
                raise
        choice = out_of_time()
        return choice, *self._rank_steps(task, choice, own, None)

    def _rank_steps(
        self, task: Task, choice: Choice, own: Stages, deadline: Deadline | None
    ) -> tuple[Queries, list[Hit]]:
        if deadline is not None and deadline.passed:
            raise _too_late(deadline)
        with own.stage("query"):
            queries = self._query(task.window, choice.method)
        with own.stage("search"):
            rows = None if task.candidates else self._search(queries, task.scope, task.top_k)
        if deadline is not None and deadline.passed:
            raise _too_late(deadline)
        with own.stage("rerank"):
            if rows is not None:
                return queries, self._rerank(task, queries, rows)
            assert task.candidates is not None
            return queries, self._rank_explicit(task, queries, task.candidates)

    def _query(self, window: Window, method: Method) -> Queries:
        return self.scorer.query(*self.scorer.pack([window.raw_LD]), method)

    def _search(self, queries: Queries, scope: Scope, top_k: int) -> Rows:
        """Retrieve the rows (K,) to re-rank, rising, as deep as offline evaluation does."""
        corpus, depth = self.library.corpus, max(RERANK_DEPTH, top_k)
        index = corpus.index_for(queries.method)
        if scope.allowed is None:
            reach = min(depth + len(scope.excluded), index.size)
            _, found_BK = index.search(queries.vectors_BD, reach)
            found = found_BK[0][found_BK[0] >= 0]
            return np.sort(found[~np.isin(found, scope.excluded)][:depth])
        allowed = np.setdiff1d(scope.allowed, scope.excluded, assume_unique=True)
        if len(allowed) > FLAT_UP_TO:
            _, found_BK = index.search(queries.vectors_BD, depth, allowed)
            return np.sort(found_BK[0][found_BK[0] >= 0])
        # A graph index walks past a narrow selection; so few rows are compared one by one.
        space_ND = corpus.projected_ND if queries.method is Method.P8 else corpus.raw_ND
        nearest = best_first(cosine(queries.vectors_BD, space_ND[allowed]), depth)[0]
        return np.sort(allowed[nearest])

    def _rerank(self, task: Task, queries: Queries, rows: Rows) -> list[Hit]:
        if not len(rows):
            return []
        corpus = self.library.corpus
        ranking = rank_rows(task.scorer, queries, corpus, rows[None], task.top_k)[0]
        ids = self.library.catalogue.ids
        return [
            Hit(
                id=ids[row],
                row=int(row),
                score=ranking.scores_K[place],
                mixture=ranking.mixture_K[place],
                order=ranking.order_K[place],
                rerank=ranking.rerank_K[place],
            )
            for place, row in enumerate(ranking.rows_K)
        ]

    def _rank_explicit(self, task: Task, queries: Queries, candidates: Candidates) -> list[Hit]:
        hits = self._score_all(task.scorer, queries, candidates)
        dropped = {self.library.catalogue.ids[row] for row in task.scope.excluded}
        kept = [hit for hit in hits if hit.id is None or hit.id not in dropped]
        return sorted(kept, key=lambda hit: -hit.score)[: task.top_k]

    def _score_all(self, scorer: Scorer, queries: Queries, candidates: Candidates) -> list[Hit]:
        projected_KD = candidates.raw_KD
        if queries.method is Method.P8:
            projected_KD = self._projected(candidates)
        scores = scorer.score(queries, candidates.raw_KD, projected_KD)
        return [
            Hit(
                id=candidates.ids[place],
                row=int(row),
                candidate=place,
                score=scores.total_BK[0, place],
                mixture=scores.mixture_BK[0, place],
                order=scores.order_BK[0, place],
                rerank=scores.rerank_BK[0, place],
            )
            for place, row in enumerate(candidates.rows_K)
        ]

    def _projected(self, candidates: Candidates) -> Floats:
        posted = candidates.rows_K < 0
        projected_KD = self.library.corpus.projected_ND[np.maximum(candidates.rows_K, 0)]
        if posted.any():
            projected_KD[posted] = self.scorer.project(candidates.raw_KD[posted])
        return projected_KD

    def _order_one(self, pair: OrderPair, prefix: str, stages: Stages) -> dict[str, Any]:
        require_order(self.state)
        with stages.stage("decode"):
            a_D, b_D = self._decoder.pair(pair, prefix)
        # One pair a call: the place of a row in a batch may change its last bit, and the swapped
        # pair must be exactly complementary wherever it stands.
        with stages.stage("order"):
            probability = self.scorer.order_probability(a_D[None], b_D[None])[0]
        return {"p_b_after_a": float(probability)}

    def _encode(
        self,
        choice: Choice,
        queries: Queries,
        window: Window,
        hits: list[Hit],
        own: Stages,
        stages: Stages,
        neighbours: tuple[Choice, list[Hit]] | None = None,
    ) -> dict[str, Any]:
        alpha_L = queries.alpha_BL[0, -len(window.raw_LD) :]
        with own.stage("encode"):
            answer = self._encoder.answer(choice, alpha_L, hits, neighbours)
        for name, ms in own.elapsed_ms.items():
            stages.add(name, ms)
        answer["timings_ms"] = own.elapsed_ms
        return answer

    def _check_batch(self, items: Sequence[object], field: str) -> None:
        limit = self._settings.batch_limit
        if len(items) > limit:
            raise BatchTooLargeError(field, f"at most {limit} {field}", str(len(items)))


def _too_late(deadline: Deadline) -> DeadlineError:
    return DeadlineError(f"no answer in the wanted mode within {deadline.limit_ms:g} ms")
