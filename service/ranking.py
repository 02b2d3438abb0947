"""Ranks many queries at once: one forward, one search, one re-ranking for all that are alike.

Queries of one batch may come from different requests. They share a view or not, have filters or
not, ask for P8 or for retrieval; those that agree in what a step needs are computed together, and
each gets what it would get alone.

Shapes: B queries, L window, K candidates, D dimension.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from models.index import Rows
from models.ranking import RERANK_DEPTH, rank_rows
from models.scoring import Floats, Method, Queries, Scorer
from service.decode import Candidates, Window
from service.encode import Hit
from service.errors import DeadlineError, ServiceError, UnavailableError
from service.modes import Choice, Mode, choose, out_of_time
from service.retrieval import Scope
from service.timing import Deadline, GoneError, Stages
from service.view import AnyView, Served

PAIRS_AT_ONCE = 1 << 18
"""Pairs of candidates re-ranked together, as many as one set of 512 has: it bounds the memory."""
WAITERS = 16
"""Searches, or reads, that wait for another process at once."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One decoded query."""

    view: AnyView
    served: Served
    scorer: Scorer
    """With the re-ranker, or without."""
    window: Window
    candidates: Candidates | None
    scope: Scope
    top_k: int
    mode: Mode
    explain: bool = False
    contents: bool = True
    """Whether text and metadata are answered."""
    deadline: Deadline | None = None
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a query is answered with."""

    choice: Choice
    alpha_L: Floats
    hits: list[Hit]
    neighbours: tuple[Choice, list[Hit]] | None = None
    """What retrieval alone would have answered, if that was asked for."""


Outcome = Ranked | ServiceError | GoneError


@dataclass(kw_only=True)
class _Run:
    """A query on its way through the steps."""

    task: Task
    choice: Choice
    hurried: bool = False
    """Whether it was late once, and is answered by what needs no network."""
    row: int = 0
    """Among the queries that were made together."""
    queries: Queries | None = None
    slots: Rows | None = None
    hits: list[Hit] = field(default_factory=list)
    failed: ServiceError | None = None

    @property
    def patient(self) -> bool:
        """Whether its deadline does not count: there is nothing quicker to hurry to."""
        direct = self.task.mode is Mode.AUTO and self.choice.method is Method.DIRECT
        return self.hurried or direct or self.task.deadline is None


def rank_all(tasks: Sequence[Task]) -> list[Outcome]:
    """Rank each query; one that fails is answered by its error, and the others go on."""
    outcomes: list[Outcome | _Run] = [_begin(task) for task in tasks]
    for _ in range(2):  # again for those that were late and are hurried now
        outcomes = [_in_time(one) for one in outcomes]
        outcomes = _search(outcomes)
    _rank(outcomes)
    near = _explained(outcomes)
    return [
        _ranked(one, near.get(id(one.task))) if isinstance(one, _Run) else one for one in outcomes
    ]


def _begin(task: Task) -> "Outcome | _Run":
    try:
        return _Run(task=task, choice=choose(task.mode, task.served.state))
    except ServiceError as error:
        return error


def _in_time(one: "Outcome | _Run") -> "Outcome | _Run":
    """Let go of a query that nobody waits for, and hurry one that is late."""
    if not isinstance(one, _Run) or one.patient:
        return one
    deadline = one.task.deadline
    assert deadline is not None
    try:
        deadline.check()
    except GoneError as error:
        return error
    if not deadline.passed:
        return one
    if one.task.mode is Mode.AUTO:
        return _Run(task=one.task, choice=out_of_time(), hurried=True)
    return DeadlineError(f"no answer in the wanted mode within {deadline.limit_ms:g} ms")


def _search(outcomes: "Sequence[Outcome | _Run]") -> "list[Outcome | _Run]":
    """Make the queries that are not made yet, and search what they ask for.

    Returns:
        The outcomes, with errors for those that could not be searched.
    """
    runs = [one for one in outcomes if isinstance(one, _Run) and one.queries is None]
    for group in _groups(runs, _of_query):
        with _timed(group, "query"):
            queries = _query(group)
        for row, run in enumerate(group):
            run.queries, run.row = queries, row
    groups = list(_groups([run for run in runs if run.task.candidates is None], _of_search))
    if len(groups) > 1 and groups[0][0].task.view.waits:
        list(waiters().map(_retrieve, groups))
    else:
        for group in groups:
            _retrieve(group)
    return [one.failed or one if isinstance(one, _Run) else one for one in outcomes]


@cache
def waiters() -> ThreadPoolExecutor:
    """Threads for what only waits for another process."""
    return ThreadPoolExecutor(WAITERS, thread_name_prefix="waiter")


def _retrieve(group: Sequence[_Run]) -> None:
    task = group[0].task
    try:
        with _timed(group, "search"):
            found = task.view.retrieve(
                task.served,
                group[0].choice.method,
                np.stack([run.queries.vectors_BD[run.row] for run in group if run.queries]),
                [run.task.scope for run in group],
                depth=_depth(group[0]),
                wanted=[run.task.top_k for run in group],
            )
    except UnavailableError as error:
        for run in group:
            run.failed = error
        return
    for run, slots in zip(group, found, strict=True):
        run.slots = slots


def _query(group: Sequence[_Run]) -> Queries:
    """Make the queries of a group; chunks that are indexed are in the model's space already."""
    task, method = group[0].task, group[0].choice.method
    scorer = task.served.scorer
    context_BLD, mask_BL = scorer.pack([run.task.window.raw_LD for run in group])
    projected_BLD = None
    if method is Method.P8 and any(len(run.task.window.slots) for run in group):
        projected_BLD = np.zeros_like(context_BLD)
        given = [not len(run.task.window.slots) for run in group]
        projected_BLD[given] = scorer.project(context_BLD[given])
        for line, run in enumerate(group):
            slots = run.task.window.slots
            if len(slots):
                projected_BLD[line, -len(slots) :] = _learned(run.task)[slots]
    return scorer.query(context_BLD, mask_BL, method, projected_BLD)


def _rank(outcomes: "Sequence[Outcome | _Run]") -> None:
    """Score and sort what was found, or given."""
    runs = [one for one in outcomes if isinstance(one, _Run)]
    for group in _groups([run for run in runs if run.slots is not None], _of_rerank):
        width = max(len(run.slots) for run in group if run.slots is not None)
        most = max(1, PAIRS_AT_ONCE // max(1, width * width))
        for start in range(0, len(group), most):
            part = group[start : start + most]
            with _timed(part, "rerank"):
                _rank_found(part)
    for run in runs:
        if run.task.candidates is not None:
            with _timed([run], "rerank"):
                run.hits = _rank_given(run, run.task.candidates)


def _rank_found(group: Sequence[_Run]) -> None:
    task, queries = group[0].task, group[0].queries
    assert queries is not None
    width = max(len(run.slots) for run in group if run.slots is not None)
    if not width:
        return
    rows_BK = np.full((len(group), width), -1, np.int64)
    for line, run in enumerate(group):
        assert run.slots is not None
        rows_BK[line, : len(run.slots)] = run.slots
    some = queries.select(np.array([run.row for run in group]))
    raw_ND, projected_ND = task.view.raw.vectors, _learned(task)
    rankings = rank_rows(task.scorer, some, raw_ND, projected_ND, rows_BK, width)
    ids = task.view.slots.ids
    for run, ranking in zip(group, rankings, strict=True):
        limit = run.task.scope.max_per_document
        most = run.task.top_k if limit is None else len(ranking.rows_K)
        hits = [
            Hit(
                id=ids[slot],
                slot=int(slot),
                score=ranking.scores_K[place],
                mixture=ranking.mixture_K[place],
                order=ranking.order_K[place],
                rerank=ranking.rerank_K[place],
            )
            for place, slot in enumerate(ranking.rows_K[:most])
        ]
        run.hits = hits if limit is None else _spread(hits, task.view, limit)[: run.task.top_k]


def _rank_given(run: _Run, candidates: Candidates) -> list[Hit]:
    task = run.task
    assert run.queries is not None
    queries = run.queries.select(np.array([run.row]))
    projected_KD = candidates.raw_KD
    if queries.method is Method.P8:
        projected_KD = _projected(task, candidates)
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


def _explained(outcomes: "Sequence[Outcome | _Run]") -> "dict[int, Outcome | _Run]":
    """What retrieval alone would have answered where that was asked for, by the task's identity."""
    tasks = [one.task for one in outcomes if isinstance(one, _Run) and one.task.explain]
    near = _search(
        [_Run(task=task, choice=choose(Mode.RETRIEVAL, task.served.state)) for task in tasks]
    )
    _rank(near)
    return {id(task): one for task, one in zip(tasks, near, strict=True)}


def _ranked(run: _Run, near: "Outcome | _Run | None") -> Outcome:
    if isinstance(near, ServiceError):
        return near
    assert run.queries is not None
    return Ranked(
        choice=run.choice,
        alpha_L=run.queries.alpha_BL[run.row, -len(run.task.window.raw_LD) :],
        hits=run.hits,
        neighbours=(near.choice, near.hits) if isinstance(near, _Run) else None,
    )


def _projected(task: Task, candidates: Candidates) -> Floats:
    posted = candidates.slots_K < 0
    projected_KD = np.empty_like(candidates.raw_KD)
    projected_KD[~posted] = _learned(task)[candidates.slots_K[~posted]]
    if posted.any():
        projected_KD[posted] = task.served.scorer.project(candidates.raw_KD[posted])
    return projected_KD


def _learned(task: Task) -> Floats:
    """Vectors of all slots in the space of the task's model."""
    return task.view.space_for(task.served, Method.P8).vectors


def _spread(hits: list[Hit], view: AnyView, limit: int) -> list[Hit]:
    """Keep the best ``limit`` hits of each document."""
    held = Counter[str]()
    kept = []
    for hit in hits:
        document_id = view.slots.document_ids[hit.slot]
        held[document_id] += 1
        if held[document_id] <= limit:
            kept.append(hit)
    return kept


def _depth(run: _Run) -> int:
    """How many candidates are retrieved: as many as in offline evaluation, if that can matter."""
    task = run.task
    judged = run.choice.method is Method.P8 and task.scorer.judges_raw
    limited = task.scope.max_per_document is not None
    return max(RERANK_DEPTH, task.top_k) if judged or limited else task.top_k


def _of_query(run: _Run) -> Hashable:
    return id(run.task.served.scorer), run.choice.method, run.task.window.raw_LD.shape[-1]


def _of_search(run: _Run) -> Hashable:
    return id(run.task.view), run.task.served.name, run.choice.method, _depth(run)


def _of_rerank(run: _Run) -> Hashable:
    # Of one width to within two times: padding is work.
    width = 0 if run.slots is None else len(run.slots).bit_length()
    return id(run.task.view), id(run.task.scorer), id(run.queries), width


def _groups(runs: Iterable[_Run], alike: Callable[[_Run], Hashable]) -> Iterable[list[_Run]]:
    groups: dict[Hashable, list[_Run]] = {}
    for run in runs:
        groups.setdefault(alike(run), []).append(run)
    return groups.values()


@contextmanager
def _timed(group: Sequence[_Run], name: str) -> Iterator[None]:
    """Time a step of a group under a name, for each of its queries."""
    start_s = time.perf_counter()
    try:
        yield
    finally:
        took_ms = (time.perf_counter() - start_s) * 1000.0
        for run in group:
            run.task.stages.add(name, took_ms)
