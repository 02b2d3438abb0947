"""The thread that builds indexes when enough has changed."""

import contextlib
import logging
import os
import threading

import faiss
import torch

from service.collection import Collection

log = logging.getLogger(__name__)

NICENESS = 10
"""How much nicer than the threads that answer: on Linux each has a priority of its own."""


class Builder:
    """Builds in the background until it is stopped.

    Args:
        collection: Whose indexes.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="builder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for a build that runs: what it would save can be built again."""
        self._stopping = True
        self._collection.changed.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            thread = (os.PRIO_PROCESS, threading.get_native_id())
            os.setpriority(*thread, os.getpriority(*thread) + NICENESS)
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        while not self._stopping:
            self._collection.changed.clear()
            if self._collection.due():
                try:
                    self._collection.build()
                except Exception:
                    log.exception("the indexes could not be built; searching goes on without")
                    self._collection.changed.wait()
                continue
            self._collection.changed.wait()
