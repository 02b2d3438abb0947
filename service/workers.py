"""A few threads for everything that computes, behind one queue of bounded length.

Queries that wait are taken together, those of different requests too: a batch is whatever has come
while the one before was computed. A lone query never waits for others; where the last batch held
several, callers that were just answered are about to ask again, and the next batch waits for them
while they come, for some milliseconds at most. A request of many queries gives way to others: each
batch takes one query of each request in turn until it is full.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from service.errors import QueueFullError, stopping

T = TypeVar("T")

BATCH_LIMIT = 32
"""Most queries computed together, which bounds how long a batch keeps the next one waiting."""
GATHERED_FOR_S = 0.004
"""Most that a batch waits for queries to come, if the last one held more than have come by now."""
STEP_S = 0.0005
"""When none has come for so long, it waits no more."""


class Question(Protocol):
    """A request whose parts can be computed together with those of others."""

    @property
    def tasks(self) -> Sequence[Any]:
        """The parts."""


Compute = Callable[[Sequence[Any]], Sequence[Any]]
"""Computes parts of any questions together; an outcome each, in their order."""


@dataclass(eq=False, kw_only=True)
class _Job:
    """What waits for a thread, and whoever waits for it."""

    future: "asyncio.Future[Any]"
    run: Callable[[], Any]
    """All of it, or the first step: to prepare the question."""
    finish: Callable[[Any, list[Any]], Any] | None = None
    """The last step of a question."""
    question: Question | None = None
    outcomes: list[Any] = field(default_factory=list)
    taken: int = 0

    @property
    def left(self) -> int:
        """Parts that are not computed yet."""
        return 0 if self.question is None else len(self.question.tasks) - self.taken


class Workers:
    """Runs jobs off the event loop, and refuses them when too many wait.

    Args:
        threads: Jobs, or batches, that run at once.
        queue_limit: Jobs that may wait beside those.
        retry_after_s: What a refused caller is told to wait.
        prepare: Run first in every thread.
        name: Of the threads.
        compute: Computes parts of questions.
        share: Told in each thread, before it computes, by how many to divide the cores. Of several
            threads, only the first has all of them, and only for a lone job: a wide computation
            waits for its slowest part at every step, for other threads as well if there are more
            than cores, and each wide thread keeps helpers of its own, which get in each other's
            way.
        computed: Told how many parts each batch holds, once it has been computed.
    """

    def __init__(
        self,
        threads: int,
        queue_limit: int,
        retry_after_s: int,
        prepare: Callable[[], None] = lambda: None,
        name: str = "worker",
        compute: Compute = lambda parts: parts,
        share: Callable[[int], None] = lambda threads: None,
        computed: Callable[[int], None] = lambda parts: None,
    ) -> None:
        self._limit = threads + queue_limit
        self._retry_after_s = retry_after_s
        self._prepare = prepare
        self._compute = compute
        self._share = share
        self._computed = computed
        self._queue: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._came = [threading.Condition(self._lock) for _ in range(threads)]
        self._idle: list[int] = []
        """Numbers of the threads that wait for a job."""
        self._pending = 0
        self._computing = 0
        self._closed = False
        self._threads = [
            threading.Thread(
                target=self._work, args=(number,), name=f"{name}-{number}", daemon=True
            )
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def _fair(self) -> int:
        """Questions that a thread takes, so that others have as many."""
        return min(BATCH_LIMIT, -(-self._pending // len(self._threads)))

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread."""
        return len(self._queue)

    def run(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a job in a worker thread; await what this returns for its result.

        Raises:
            QueueFullError: If too many jobs are running and waiting already.
            UnavailableError: If the service is stopping.
        """
        return self._enter(_Job(future=_future(), run=job))

    def ask(
        self, prepare: Callable[[], Question], finish: Callable[[Any, list[Any]], T]
    ) -> "asyncio.Future[T]":
        """Have a question computed, together with others that wait; await this for its answer.

        Args:
            prepare: Makes the question.
            finish: Makes the answer of the question and its outcomes.

        Raises:
            QueueFullError: If too many jobs are running and waiting already.
            UnavailableError: If the service is stopping.
        """
        return self._enter(_Job(future=_future(), run=prepare, finish=finish))

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        with self._lock:
            self._closed = True
            dropped = list(self._queue)
            self._queue.clear()
            self._pending -= len(dropped)
            for came in self._came:
                came.notify()
        _deliver([(job, None, CancelledError()) for job in dropped])
        for thread in self._threads:
            thread.join()

    def _enter(self, job: _Job) -> "asyncio.Future[Any]":
        with self._lock:
            if self._closed:
                raise stopping(self._retry_after_s)
            if self._pending >= self._limit:
                raise QueueFullError(
                    f"{self._pending} requests are running or waiting already",
                    retry_after_s=self._retry_after_s,
                )
            self._pending += 1
            self._queue.append(job)
            if self._idle:
                # The first that can, so that the others, and their part of the cores, stay idle
                # while one is enough.
                first = min(self._idle)
                self._idle.remove(first)
                self._came[first].notify()
        job.future.add_done_callback(lambda future: self._forget(job, future))
        return job.future

    def _forget(self, job: _Job, future: "asyncio.Future[Any]") -> None:
        """Take a job out of the queue if whoever waited for it has gone."""
        if future.cancelled():
            with self._lock:
                if job in self._queue:
                    self._queue.remove(job)
                    self._pending -= 1

    def _work(self, number: int) -> None:
        self._prepare()
        active: deque[_Job] = deque()
        last = 0
        while self._fill(number, active, last):
            last = len(active)
            if active:
                self._batch(number, active)

    def _fill(self, number: int, active: deque[_Job], last: int) -> bool:
        """Take what waits, until there is a batch; False when closed.

        A job by itself is answered before anything else is taken, and one runs between two batches
        at most.
        """
        while not active or len(active) < self._fair:
            job = self._take(number, block=not active)
            if job is None:
                return bool(active)
            if not active and job.finish is not None:
                self._gather(last)
            self._begin(job, active)
            if job.finish is None:
                break
        return True

    def _take(self, number: int, *, block: bool) -> _Job | None:
        with self._lock:
            while block and not self._queue and not self._closed:
                if number not in self._idle:
                    self._idle.append(number)
                self._came[number].wait()
            if number in self._idle:
                self._idle.remove(number)
            return self._queue.popleft() if self._queue else None

    def _gather(self, last: int) -> None:
        """Wait while more questions come, until there are as many as in the last batch."""
        waiting, before = len(self._queue), -1
        until_s = time.monotonic() + GATHERED_FOR_S
        while before < waiting < last - 1 and time.monotonic() < until_s:
            time.sleep(STEP_S)
            before, waiting = waiting, len(self._queue)

    def _begin(self, job: _Job, active: deque[_Job]) -> None:
        try:
            result = job.run()
        except BaseException as error:
            self._settle([(job, None, error)])
            return
        if job.finish is None:
            self._settle([(job, result, None)])
        else:
            job.question = result
            active.append(job)

    def _settle(self, done: Sequence[tuple[_Job, Any, BaseException | None]]) -> None:
        with self._lock:
            self._pending -= len(done)
        _deliver(done)

    def _batch(self, number: int, active: deque[_Job]) -> None:
        """Compute a batch, of one part of each question in turn, and finish what is complete."""
        parts: list[Any] = []
        owners: list[_Job] = []
        turn = deque(active)
        while turn and len(parts) < BATCH_LIMIT:
            job = turn.popleft()
            if job.left:
                assert job.question is not None
                parts.append(job.question.tasks[job.taken])
                owners.append(job)
                job.taken += 1
                turn.append(job)
        with self._lock:
            self._computing += 1
            alone = len(self._threads) == 1 or (number == 0 and self._pending == 1)
            computing = 1 if alone else max(2, self._computing)
        try:
            self._share(computing)
            outcomes = self._compute(parts)
        except BaseException as error:
            outcomes = [error] * len(parts)
        finally:
            with self._lock:
                self._computing -= 1
        if parts:
            self._computed(len(parts))
        for job, outcome in zip(owners, outcomes, strict=True):
            job.outcomes.append(outcome)
        done: list[tuple[_Job, Any, BaseException | None]] = []
        for job in [job for job in active if not job.left]:
            active.remove(job)
            assert job.finish is not None
            try:
                done.append((job, job.finish(job.question, job.outcomes), None))
            except BaseException as error:
                done.append((job, None, error))
        self._settle(done)


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def _deliver(done: Sequence[tuple[_Job, Any, BaseException | None]]) -> None:
    """Hand results to whoever waits; one call of the event loop for all."""
    if not done:
        return

    def set_all() -> None:
        for job, result, error in done:
            if job.future.done():
                continue
            if isinstance(error, CancelledError):
                job.future.cancel()
            elif error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)

    loop = done[0][0].future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(set_all)
