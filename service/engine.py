"""Answers requests: decode → validate → query → search → re-rank → encode.

An engine holds no state that a request changes, and is called from worker threads, never on the
event loop. Each request takes one view of the collection and keeps it to its end.

Shapes: B = 1 query, L window, K candidates, N chunks of a bag, D dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.restore import restore
from models.scoring import Method
from service.backend import Backend
from service.decode import Decoder, Embed, Window
from service.encode import Contents, Encoder
from service.errors import BatchTooLargeError, TopKTooLargeError
from service.modes import DEFAULT_MODEL, Mode, require_order
from service.ranking import Outcome, Ranked, Task, rank_all, waiters
from service.retrieval import Scope
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
from service.view import AnyView, Served

NO_SCOPE = Scope(allowed_N=None, excluded=np.empty(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class Question:
    """A decoded request for ranks or scores, and how its answer is written."""

    tasks: list[Task]
    batch: bool
    """Whether it came, and is answered, as a list."""
    stages: Stages
    contents: Contents
    given_order: bool = False
    """Whether candidates are answered in their given order."""

    def answer(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Write the answer to all its queries.

        Raises:
            ServiceError: If one of them cannot be answered.
            GoneError: If nobody waits for the answer.
        """
        answers = []
        for task, outcome in zip(self.tasks, outcomes, strict=True):
            if not isinstance(outcome, Ranked):
                raise outcome
            hits = outcome.hits
            if self.given_order:
                hits = sorted(hits, key=lambda hit: hit.candidate or 0)
            with task.stages.stage("encode"):
                contents = self.contents if task.contents else None
                encoder = Encoder(task.view, task.served, contents)
                found = encoder.answer(outcome.choice, outcome.alpha_L, hits, outcome.neighbours)
            self.stages.absorb(task.stages)
            answers.append(found | {"timings_ms": task.stages.elapsed_ms})
        return {"answers": answers} if self.batch else answers[0]


class Engine:
    """Ranks, scores and orders what a collection holds.

    Args:
        collection: Chunks, indexes and models.
        settings: Limits.
        embed: Turns texts into unit vectors.
    """

    def __init__(self, collection: Backend, settings: Settings, embed: Embed) -> None:
        self.collection = collection
        self._settings = settings
        self._embed = embed

    def rank(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/rank``: one query, or a batch of them.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
            GoneError: If nobody waits for the answer.
        """
        question = self.ask_rank(body, stages, deadline)
        return question.answer(rank_all(question.tasks))

    def score(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/score``: explicit candidates, in the given order.

        Raises:
            ServiceError: If the request is at fault or cannot be answered.
            GoneError: If nobody waits for the answer.
        """
        question = self.ask_score(body, stages, deadline)
        return question.answer(rank_all(question.tasks))

    def ask_rank(self, body: object, stages: Stages, deadline: Deadline) -> Question:
        """Decode what ``/v1/rank`` is asked.

        Raises:
            ServiceError: If the request is at fault.
            GoneError: If nobody waits for the answer.
        """
        deadline.check()
        view = self.collection.view
        batch = isinstance(body, dict) and "queries" in body
        if batch:
            queries = check(RankBatch, body).queries
            self._check_batch(queries, "queries")
            prefixes = [f"queries.{place}." for place in range(len(queries))]
            with stages.stage("decode"):
                self._find(view, queries)
        else:
            queries, prefixes = [check(RankQuery, body)], [""]
        decode = partial(self._decode, view, deadline)
        if view.waits and len(queries) > 1:  # each may read a document
            tasks = list(waiters().map(decode, queries, prefixes))
        else:
            tasks = list(map(decode, queries, prefixes))
        return Question(tasks=tasks, batch=batch, stages=stages, contents=self._contents)

    def ask_score(self, body: object, stages: Stages, deadline: Deadline) -> Question:
        """Decode what ``/v1/score`` is asked.

        Raises:
            ServiceError: If the request is at fault.
            GoneError: If nobody waits for the answer.
        """
        deadline.check()
        query = check(ScoreQuery, body)
        view, own = self.collection.view, Stages()
        with own.stage("decode"):
            served = view.served(query.model)
            decoder = self._decoder(view, served)
            self._find(view, [query])
            task = Task(
                view=view,
                served=served,
                scorer=served.scorer if query.rerank else served.plain,
                window=decoder.window(query),
                candidates=decoder.candidates(query.candidates),
                scope=NO_SCOPE,
                top_k=len(query.candidates),
                mode=Mode(query.mode),
                contents=query.contents,
                deadline=deadline,
                stages=own,
            )
        return Question(
            tasks=[task], batch=False, stages=stages, contents=self._contents, given_order=True
        )

    def order(self, body: object, stages: Stages, deadline: Deadline) -> dict[str, Any]:
        """Answer ``/v1/order``: one pair, or several.

        Raises:
            ServiceError: If the request is at fault or there is no usable verifier.
        """
        batch = isinstance(body, dict) and "pairs" in body
        if batch:
            pairs = check(OrderBatch, body).pairs
            self._check_batch(pairs, "pairs")
            prefixes = [f"pairs.{place}." for place in range(len(pairs))]
        else:
            pairs, prefixes = [check(OrderPair, body)], [""]
        answers = [
            {"p_b_after_a": probability}
            for probability in self._order(pairs, prefixes, stages, deadline)
        ]
        return {"answers": answers} if batch else answers[0]

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
            "model": Encoder(view, served, self.collection.contents).model(Method.P8),
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

    def warm_up(self, view: AnyView | None = None) -> None:
        """Run one query of every kind, so that the first caller does not pay for lazy set-up."""
        view = view or self.collection.view
        if not view.dimension:
            return
        served = view.served(DEFAULT_MODEL)
        raw_LD = np.full((1, view.dimension), view.dimension**-0.5, np.float32)
        for wanted in (Mode.AUTO, Mode.RETRIEVAL):
            task = Task(
                view=view,
                served=served,
                scorer=served.scorer,
                window=Window(raw_LD=raw_LD, slots=np.empty(0, np.int64)),
                candidates=None,
                scope=NO_SCOPE,
                top_k=1,
                mode=wanted,
            )
            for outcome in rank_all([task]) + rank_all([task, task]):
                if not isinstance(outcome, Ranked):
                    raise outcome

    def _find(self, view: AnyView, queries: Sequence[RankQuery | ScoreQuery]) -> None:
        """Find all chunks that queries name by one call, where they are not in memory."""
        if not view.waits:
            return
        ids = [one for query in queries for one in query.context_ids or ()]
        for query in queries:
            candidates = query.candidates or ()
            if len(candidates) <= self._settings.candidates_limit:
                ids += [one.id for one in candidates if one.vector is None and one.id is not None]
        view.find(ids)

    def _decode(self, view: AnyView, deadline: Deadline, query: RankQuery, prefix: str) -> Task:
        own = Stages()
        with own.stage("decode"):
            served = view.served(query.model, f"{prefix}model")
            limit = self._settings.top_k_limit
            if query.top_k > limit:
                raise TopKTooLargeError(f"{prefix}top_k", f"at most {limit}", str(query.top_k))
            decoder = self._decoder(view, served)
            self._find(view, [query])
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
            mode=Mode(query.mode),
            explain=query.explain,
            contents=query.contents,
            deadline=deadline,
            stages=own,
        )

    def _decoder(self, view: AnyView, served: Served) -> Decoder:
        return Decoder(
            view, window=served.scorer.window, settings=self._settings, embed=self._embed
        )

    def _order(
        self,
        pairs: Sequence[OrderPair],
        prefixes: Sequence[str],
        stages: Stages,
        deadline: Deadline,
    ) -> list[float]:
        """The probability of each pair; those of one model are computed together."""
        view = self.collection.view
        alike: dict[str, list[int]] = {}
        for place, (pair, prefix) in enumerate(zip(pairs, prefixes, strict=True)):
            require_order(view.served(pair.model, f"{prefix}model").state)
            alike.setdefault(pair.model, []).append(place)
        sides = []
        with stages.stage("decode"):
            if view.waits:  # at once, which is one call
                ids = [one for pair in pairs for one in (pair.a_id, pair.b_id) if one is not None]
                view.find(ids)
            for pair, prefix in zip(pairs, prefixes, strict=True):
                deadline.check()
                decoder = self._decoder(view, view.served(pair.model))
                sides.append(decoder.pair(pair, prefix))
        probabilities = [0.0] * len(pairs)
        with stages.stage("order"):
            for name, places in alike.items():
                a_PD, b_PD = (np.stack([sides[place][side] for place in places]) for side in (0, 1))
                found_P = view.served(name).scorer.order_probability(a_PD, b_PD)
                for place, probability in zip(places, found_P.tolist(), strict=True):
                    probabilities[place] = probability
        return probabilities

    @property
    def _contents(self) -> Contents:
        return self.collection.contents

    def _check_batch(self, items: Sequence[object], field: str) -> None:
        limit = self._settings.batch_limit
        if len(items) > limit:
            raise BatchTooLargeError(field, f"at most {limit} {field}", str(len(items)))
