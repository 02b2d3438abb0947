"""Long work beside the threads that answer, to which it gives way."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import faiss
import torch

T = TypeVar("T")

NICENESS = 10
"""How much nicer than the threads that answer: on Linux each has a priority of its own."""


def give_way() -> None:
    """Have the calling thread compute by one thread, and after those that answer."""
    with contextlib.suppress(OSError, AttributeError):
        thread = (os.PRIO_PROCESS, threading.get_native_id())
        os.setpriority(*thread, os.getpriority(*thread) + NICENESS)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


async def aside(job: Callable[[], T]) -> T:
    """Run a job in a thread of its own that gives way, and wait for its result.

    It is carried on when the caller goes away, and dropped when the process ends.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        give_way()
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await asyncio.wrap_future(future)
