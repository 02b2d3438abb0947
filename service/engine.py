"""Answers requests: decode → validate → query → search → re-rank → encode.

An engine holds no state that a request changes, and is called from worker threads, never on the
event loop. Each request takes one view of the collection and keeps it to its end.

Shapes: B = 1 query, L window, K candidates, N chunks of a bag, D dimension.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.index import Rows
from models.ranking import RERANK_DEPTH, rank_rows
from models.restore import restore
from models.scoring import Floats, Method, Queries, Scorer
from service.collection import Collection
from service.decode import Candidates, Decoder, Embed, Window
from service.encode import Encoder, Hit
from service.errors import BatchTooLargeError, DeadlineError, TopKTooLargeError
from service.modes import DEFAULT_MODEL, Choice, Mode, choose, out_of_time, require_order
from service.retrieval import Scope, retrieve
from service.schemas import (
    OrderBatch,
    OrderPair,
    RankBatch,
    RankQuery,
    ScoreQuery,
    SequenceQuery,
    check,
)
from service.settings import Settings
from service.timing import Deadline, Stages
from service.view import Served, View


@dataclass(frozen=True, kw_only=True)
class Task:
    """One decoded rank query."""

    view: View
    served: Served
    scorer: Scorer
    """With the re-ranker, or without."""
    window: Window
    candidates: Candidates | None
    scope: Scope
    top_k: int


class Engine:
    """Ranks, scores and orders what a collection holds.

    Args:
        collection: Chunks, indexes and models.
        settings: Limits.
        embed: Turns texts into unit vectors.
    """

    def __init__(self, collection: Collection, settings: Settings, embed: Embed) -> None:
        self.collection = collection
        self._settings = settings
        self._embed = embed

    def rank(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/rank``: one query, or a batch of them.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
        """
        view = self.collection.view
        if not (isinstance(body, dict) and "queries" in body):
            return self._rank_one(view, check(RankQuery, body), "", stages, deadline)
        queries = check(RankBatch, body).queries
        self._check_batch(queries, "queries")
        return {
            "answers": [
                self._rank_one(view, query, f"queries.{place}.", stages, deadline)
                for place, query in enumerate(queries)
            ]
        }

    def score(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/score``: explicit candidates, in the given order.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
        """
        query = check(ScoreQuery, body)
        view, own = self.collection.view, Stages()
        with own.stage("decode"):
            served = view.served(query.model)
            decoder = self._decoder(view, served)
            task = Task(
                view=view,
                served=served,
                scorer=served.scorer if query.rerank else served.plain,
                window=decoder.window(query),
                candidates=decoder.candidates(query.candidates),
                scope=Scope(allowed_N=None, excluded=np.empty(0, np.int64)),
                top_k=len(query.candidates),
            )
        choice, queries, hits = self._in_time(task, Mode(query.mode), own, deadline)
        hits = sorted(hits, key=lambda hit: hit.candidate or 0)
        return self._encode(task, choice, queries, hits, own, stages)

    def order(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/order``: one pair, or several.

        Raises:
            ServiceError: If the request is at fault or there is no usable verifier.
        """
        view = self.collection.view
        if not (isinstance(body, dict) and "pairs" in body):
            return self._order_one(view, check(OrderPair, body), "", stages, deadline)
        pairs = check(OrderBatch, body).pairs
        self._check_batch(pairs, "pairs")
        return {
            "answers": [
                self._order_one(view, pair, f"pairs.{place}.", stages, deadline)
                for place, pair in enumerate(pairs)
            ]
        }

    def sequence(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/sequence``: a bag in reading order, and what does not belong to it.

        Raises:
            ServiceError: If the request is at fault or there is no usable verifier.
        """
        query = check(SequenceQuery, body)
        view = self.collection.view
        served = view.served(query.model)
        require_order(served.state)
        with stages.stage("decode"):
            bag = self._decoder(view, served).bag(query)
        deadline.check()
        with stages.stage("sequence"):
            found = restore(served.scorer, bag.raw_ND)
        return {
            "model": Encoder(view, served, self.collection.store.contents).model(Method.P8),
            "confidence": found.confidence,
            "order": [
                {
                    "index": int(index),
                    "id": bag.ids[index],
                    "confidence": float(found.chunk_confidence_N[index]),
                    "belongs": float(found.belongs_N[index]),
                }
                for index in found.rows_N
            ],
            "outliers": [int(index) for index in found.outliers],
            "duplicates": [[int(one), int(other)] for one, other in found.duplicates],
        }

    def warm_up(self, served: Served | None = None) -> None:
        """Run one query of every kind, so that the first caller does not pay for lazy set-up."""
        view = self.collection.view
        if not view.dimension:
            return
        served = served or view.served(DEFAULT_MODEL)
        raw_LD = np.full((1, view.dimension), view.dimension**-0.5, np.float32)
        task = Task(
            view=view,
            served=served,
            scorer=served.scorer,
            window=Window(raw_LD=raw_LD, slots=np.empty(0, np.int64)),
            candidates=None,
            scope=Scope(allowed_N=None, excluded=np.empty(0, np.int64)),
            top_k=1,
        )
        for wanted in (Mode.AUTO, Mode.RETRIEVAL):
            self._steps(task, choose(wanted, served.state), Stages(), None)

    def _rank_one(
        self, view: View, query: RankQuery, prefix: str, stages: Stages, deadline: Deadline
    ) -> dict[str, Any]:
        own = Stages()
        deadline.check()
        with own.stage("decode"):
            task = self._decode(view, query, prefix)
        choice, queries, hits = self._in_time(task, Mode(query.mode), own, deadline)
        neighbours = None
        if query.explain:
            retrieval = choose(Mode.RETRIEVAL, task.served.state)
            with own.stage("explain"):
                _, near = self._steps(task, retrieval, Stages(), None)
            neighbours = (retrieval, near)
        return self._encode(task, choice, queries, hits, own, stages, neighbours)

    def _decode(self, view: View, query: RankQuery, prefix: str) -> Task:
        served = view.served(query.model, f"{prefix}model")
        limit = self._settings.top_k_limit
        if query.top_k > limit:
            raise TopKTooLargeError(f"{prefix}top_k", f"at most {limit}", str(query.top_k))
        decoder = self._decoder(view, served)
        window = decoder.window(query, prefix)
        scope = decoder.scope(query, window)
        candidates = None
        if query.candidates is not None:
            candidates = decoder.candidates(query.candidates, prefix)
        return Task(
            view=view,
            served=served,
            scorer=served.scorer if query.rerank else served.plain,
            window=window,
            candidates=candidates,
            scope=scope,
            top_k=query.top_k,
        )

    def _decoder(self, view: View, served: Served) -> Decoder:
        return Decoder(
            view, window=served.scorer.window, settings=self._settings, embed=self._embed
        )

    def _in_time(
        self, task: Task, wanted: Mode, own: Stages, deadline: Deadline
    ) -> tuple[Choice, Queries, list[Hit]]:
        choice = choose(wanted, task.served.state)
        # DIRECT is what auto falls back to, so there is nothing quicker to hurry to.
        patient = wanted is Mode.AUTO and choice.method is Method.DIRECT
        try:
            return choice, *self._steps(task, choice, own, None if patient else deadline)
        except DeadlineError:
            if wanted is not Mode.AUTO:
                raise
        choice = out_of_time()
        return choice, *self._steps(task, choice, own, None)

    def _steps(
        self, task: Task, choice: Choice, own: Stages, deadline: Deadline | None
    ) -> tuple[Queries, list[Hit]]:
        _check_time(deadline)
        with own.stage("query"):
            packed = task.served.scorer.pack([task.window.raw_LD])
            queries = task.served.scorer.query(*packed, choice.method)
        if task.candidates is None:
            with own.stage("search"):
                slots = self._search(task, queries)
        _check_time(deadline)
        with own.stage("rerank"):
            if task.candidates is None:
                return queries, self._rank_slots(task, queries, slots)
            return queries, self._rank_explicit(task, queries, task.candidates)

    def _search(self, task: Task, queries: Queries) -> Rows:
        """Retrieve the slots (K,) to re-rank, rising, as deep as offline evaluation does."""
        space = task.view.space_for(task.served, queries.method)
        depth = max(RERANK_DEPTH, task.top_k)
        return retrieve(
            task.view, space, queries.vectors_BD[0], task.scope, depth=depth, wanted=task.top_k
        )

    def _rank_slots(self, task: Task, queries: Queries, slots: Rows) -> list[Hit]:
        if not len(slots):
            return []
        limit = task.scope.max_per_document
        top_k = task.top_k if limit is None else len(slots)
        raw_ND, projected_ND = task.view.raw.vectors, task.served.space.vectors
        ranking = rank_rows(task.scorer, queries, raw_ND, projected_ND, slots[None], top_k)[0]
        ids = task.view.slots.ids
        hits = [
            Hit(
                id=ids[slot],
                slot=int(slot),
                score=ranking.scores_K[place],
                mixture=ranking.mixture_K[place],
                order=ranking.order_K[place],
                rerank=ranking.rerank_K[place],
            )
            for place, slot in enumerate(ranking.rows_K)
        ]
        return hits if limit is None else _spread(hits, task.view, limit)[: task.top_k]

    def _rank_explicit(self, task: Task, queries: Queries, candidates: Candidates) -> list[Hit]:
        projected_KD = candidates.raw_KD
        if queries.method is Method.P8:
            projected_KD = _projected(task.served, candidates)
        scores = task.scorer.score(queries, candidates.raw_KD, projected_KD)
        dropped = {task.view.slots.ids[slot] for slot in task.scope.excluded}
        hits = [
            Hit(
                id=candidates.ids[place],
                slot=int(slot),
                candidate=place,
                score=scores.total_BK[0, place],
                mixture=scores.mixture_BK[0, place],
                order=scores.order_BK[0, place],
                rerank=scores.rerank_BK[0, place],
            )
            for place, slot in enumerate(candidates.slots_K)
            if candidates.ids[place] is None or candidates.ids[place] not in dropped
        ]
        return sorted(hits, key=lambda hit: -hit.score)[: task.top_k]

    def _order_one(
        self, view: View, pair: OrderPair, prefix: str, stages: Stages, deadline: Deadline
    ) -> dict[str, Any]:
        deadline.check()
        served = view.served(pair.model, f"{prefix}model")
        require_order(served.state)
        with stages.stage("decode"):
            a_D, b_D = self._decoder(view, served).pair(pair, prefix)
        # One pair a call: the place of a row in a batch may change its last bit, and the swapped
        # pair must be exactly complementary wherever it stands.
        with stages.stage("order"):
            probability = served.scorer.order_probability(a_D[None], b_D[None])[0]
        return {"p_b_after_a": float(probability)}

    def _encode(
        self,
        task: Task,
        choice: Choice,
        queries: Queries,
        hits: list[Hit],
        own: Stages,
        stages: Stages,
        neighbours: tuple[Choice, list[Hit]] | None = None,
    ) -> dict[str, Any]:
        alpha_L = queries.alpha_BL[0, -len(task.window.raw_LD) :]
        with own.stage("encode"):
            encoder = Encoder(task.view, task.served, self.collection.store.contents)
            answer = encoder.answer(choice, alpha_L, hits, neighbours)
        stages.absorb(own)
        answer["timings_ms"] = own.elapsed_ms
        return answer

    def _check_batch(self, items: Sequence[object], field: str) -> None:
        limit = self._settings.batch_limit
        if len(items) > limit:
            raise BatchTooLargeError(field, f"at most {limit} {field}", str(len(items)))


def _projected(served: Served, candidates: Candidates) -> Floats:
    posted = candidates.slots_K < 0
    projected_KD = served.space.vectors[np.maximum(candidates.slots_K, 0)]
    if posted.any():
        projected_KD[posted] = served.scorer.project(candidates.raw_KD[posted])
    return projected_KD


def _spread(hits: list[Hit], view: View, limit: int) -> list[Hit]:
    """Keep the best ``limit`` hits of each document."""
    held = Counter[str]()
    kept = []
    for hit in hits:
        document_id = view.slots.document_ids[hit.slot]
        held[document_id] += 1
        if held[document_id] <= limit:
            kept.append(hit)
    return kept


def _check_time(deadline: Deadline | None) -> None:
    if deadline is None:
        return
    deadline.check()
    if deadline.passed:
        raise DeadlineError(f"no answer in the wanted mode within {deadline.limit_ms:g} ms")
