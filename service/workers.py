"""A few threads for everything that computes, behind a queue of bounded length."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from service.errors import QueueFullError

T = TypeVar("T")


class Workers:
    """Runs jobs off the event loop, and refuses them when too many wait.

    Args:
        threads: Jobs that run at once.
        queue_limit: Jobs that may wait beside those.
        retry_after_s: What a refused caller is told to wait.
        prepare: Run first in every thread.
    """

    def __init__(
        self,
        threads: int,
        queue_limit: int,
        retry_after_s: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "worker", initializer=prepare)
        self._limit = threads + queue_limit
        self._retry_after_s = retry_after_s
        self._lock = threading.Lock()
        self._pending = 0

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job in a worker thread and wait for its result.

        Raises:
            QueueFullError: If too many jobs are running and waiting already.
        """
        with self._lock:
            if self._pending >= self._limit:
                raise QueueFullError(
                    f"{self._pending} requests are running or waiting already",
                    retry_after_s=self._retry_after_s,
                )
            self._pending += 1
        try:
            future = self._pool.submit(job)
        except RuntimeError:  # the pool is shutting down
            self._leave(None)
            raise
        # The job, not the caller who waits for it, holds the place: a caller may hang up.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._pool.shutdown(cancel_futures=True)

    def _leave(self, _: Future[T] | None) -> None:
        with self._lock:
            self._pending -= 1
