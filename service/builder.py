"""The thread that builds indexes when enough has changed."""

import logging
import threading

from models.index import BudgetError
from service.background import give_way
from service.collection import Collection

log = logging.getLogger(__name__)


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
        give_way()
        for space in self._collection.view.spaces:
            if space.index is not None:
                space.index.warm()
        while not self._stopping:
            self._collection.changed.clear()
            try:
                if self._collection.unkept:
                    self._collection.keep()
                if self._collection.due():
                    self._collection.build()
                    continue
            except BudgetError as error:
                log.warning("no index was built, searching goes on without: %s", error)
            except Exception:
                log.exception("the indexes could not be built; searching goes on without")
            self._collection.changed.wait()
