"""A few threads for everything that computes, behind a queue of bounded length."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from service.errors import QueueFullError, UnavailableError

T = TypeVar("T")


class Workers:
    """Runs jobs off the event loop, and refuses them when too many wait.

    Args:
        threads: Jobs that run at once.
        queue_limit: Jobs that may wait beside those.
        retry_after_s: What a refused caller is told to wait.
        prepare: Run first in every thread.
        name: Of the threads.
    """

    def __init__(
        self,
        threads: int,
        queue_limit: int,
        retry_after_s: int,
        prepare: Callable[[], None] = lambda: None,
        name: str = "worker",
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, name, initializer=prepare)
        self._threads = threads
        self._limit = threads + queue_limit
        self._retry_after_s = retry_after_s
        self._lock = threading.Lock()
        self._pending = 0

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread."""
        return max(0, self._pending - self._threads)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job in a worker thread and wait for its result.

        Raises:
            QueueFullError: If too many jobs are running and waiting already.
            UnavailableError: If the service is stopping.
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
        except RuntimeError as error:  # the pool is shutting down
            self._leave(None)
            raise UnavailableError(
                "the service is stopping", reason="stopping", retry_after_s=self._retry_after_s
            ) from error
        # The job, not the caller who waits for it, holds the place: a caller may hang up.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._pool.shutdown(cancel_futures=True)

    def _leave(self, _: Future[T] | None) -> None:
        with self._lock:
            self._pending -= 1
