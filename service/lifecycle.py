"""How the service comes up and goes down.

Loading happens in a thread of its own while the socket already listens, so that ``/livez`` answers
at once and ``/readyz`` as soon as ranks can be answered.
"""

import json
import logging
import shlex
import threading
from collections.abc import Callable

import faiss
import numpy as np
import torch

from service.embedding import LazyEmbedder, LoadEmbedder, load_installed
from service.engine import Engine
from service.errors import NotReadyError
from service.library import load_library, open_store
from service.modes import ModelState, load_state
from service.settings import Settings
from service.store import Store, StoreError
from service.workers import Workers

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0


class Service:
    """The engine, once it is there, and the workers it runs in.

    Args:
        settings: All settings.
        load_embedder: Loads an embedding model by name, at the first text.
        announce: Told one line about a checkpoint that cannot serve, and one when ready.
    """

    def __init__(
        self,
        settings: Settings,
        load_embedder: LoadEmbedder = load_installed,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._load_embedder = load_embedder
        self._announce = announce
        self._engine: Engine | None = None
        self._store: Store | None = None
        self._reason = "loading"
        self._thread = threading.Thread(target=self._load, name="load", daemon=True)
        self.workers = Workers(
            settings.workers,
            settings.queue_limit,
            settings.retry_after_s,
            prepare=lambda: _set_threads(settings.torch_threads),
        )

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotReadyError: If it is not there (yet).
        """
        if self._engine is None:
            raise NotReadyError(f"cannot answer yet: {self._reason}", reason=self._reason)
        return self._engine

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Finish running jobs and close the store."""
        self._thread.join(STOP_TIMEOUT_S)
        self.workers.close()
        if self._store is not None:
            self._store.close()

    def _load(self) -> None:
        try:
            engine = self._build()
        except StoreError as error:
            self._reason = str(error).replace(f"{self.settings.data}/", "")
            log.error("not ready: %s", self._reason)
            self._announce(f"not ready: {error}")
        except Exception:
            self._reason = "loading failed"
            log.exception("not ready: loading failed")
            self._announce("not ready: loading failed, see the log")
        else:
            self._engine = engine
            self._announce(_ready_line(engine))
            if self.settings.port:
                self._announce(_example_line(engine, self.settings))

    def _build(self) -> Engine:
        settings = self.settings
        opened = open_store(settings.data)
        self._store = opened.store
        info = opened.info
        state = load_state(settings.checkpoint, info.dimension, info.embedding_model)
        _report(state, self._announce)
        library = load_library(settings.data, opened, state)
        name = settings.embedder or info.embedding_model
        embed = LazyEmbedder(self._load_embedder, name, info.dimension)
        engine = Engine(library, state, settings, embed)
        engine.warm_up()
        return engine


def _report(state: ModelState, announce: Callable[[str], None]) -> None:
    if state.reason is None:
        return
    log.warning("auto answers by %s (%s): %s", state.retrieval, state.reason, state.detail)
    announce(f"answering by retrieval ({state.reason}): {state.detail}")


def _ready_line(engine: Engine) -> str:
    info = engine.library.info
    mode = "p8" if engine.state.reason is None else f"retrieval by {engine.state.retrieval}"
    return f"ready: {info.chunks} chunks, {len(engine.library.rows_of)} documents, mode {mode}"


def _example_line(engine: Engine, settings: Settings) -> str:
    """A question to paste: what follows the first chunks of the first document long enough."""
    library = engine.library
    window = engine.scorer.window
    rows = next((rows for rows in library.rows_of.values() if len(rows) > window), np.arange(1))
    body = json.dumps({"context_ids": [library.catalogue.ids[row] for row in rows[:window]]})
    quoted = shlex.quote(body)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return (
        f"try: curl -s http://{host}:{settings.port}/v1/rank "
        f"-H 'content-type: application/json' -d {quoted}"
    )


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
