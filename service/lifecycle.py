"""How the service comes up, changes its models, and goes down.

Loading happens in a thread of its own while the socket already listens, so that ``/livez`` answers
at once and ``/readyz`` as soon as ranks can be answered.
"""

import gc
import json
import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import torch

from models.packed import has_bfloat16
from service.backend import Backend, Opened
from service.embedding import LazyEmbedder, LoadEmbedder, load_installed
from service.engine import Engine
from service.errors import (
    CheckpointRejectedError,
    IndexUnavailableError,
    NotReadyError,
    UnknownModelError,
)
from service.metrics import Gauges, ModelGauge
from service.modes import DEFAULT_MODEL, ModelState, load_state
from service.opening import checkpoints_of, open_collection
from service.ranking import rank_all
from service.settings import Settings
from service.store import StoreError
from service.workers import Workers
from service.write import Writer

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
EXAMPLES = 100
"""Documents among which one is looked for that is long enough for an example."""
WIDEST = 4
"""Most threads that compute where the settings do not say: a window is too small for more."""


class Service:
    """The engine, once it is there, and the threads that it runs in.

    Args:
        settings: All settings.
        load_embedder: Loads an embedding model by name, at the first text.
        announce: Told one line about a checkpoint that cannot serve, and one when ready.
        computed: Told how many queries each batch held, whichever requests they came with.
    """

    def __init__(
        self,
        settings: Settings,
        load_embedder: LoadEmbedder = load_installed,
        announce: Callable[[str], None] = lambda _: None,
        computed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._load_embedder = load_embedder
        self._announce = announce
        self._engine: Engine | None = None
        self._writer: Writer | None = None
        self._opened: Opened | None = None
        self._checkpoints = checkpoints_of(settings)
        self._reloading = threading.Lock()
        self._reason = "loading"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._load, name="load", daemon=True)
        self._threads = settings.torch_threads or min(torch.get_num_threads(), WIDEST)
        retry = settings.retry_after_s
        self.workers = Workers(
            settings.workers,
            settings.queue_limit,
            retry,
            compute=rank_all,
            share=self._share,
            computed=computed,
        )
        self.writers = Workers(
            1, settings.write_queue_limit, retry, lambda: _set_threads(1), name="writer"
        )

    @property
    def engine(self) -> Engine:
        """What answers.

        Raises:
            NotReadyError: If it is not there (yet).
        """
        if self._engine is None:
            raise self._not_ready()
        return self._engine

    @property
    def writer(self) -> Writer:
        """What writes.

        Raises:
            NotReadyError: If it is not there (yet).
        """
        if self._writer is None:
            raise self._not_ready()
        return self._writer

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Finish running jobs and close the store."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)
        self.workers.close()
        self.writers.close()
        if self._opened is not None:
            self._opened.close()

    def reload(self, name: str, folder: str | None) -> dict[str, Any]:
        """Load a model's checkpoint, make it ready, verify it, and serve with it from then on.

        Args:
            name: Of the model.
            folder: Name of a checkpoint beside its present one; None loads that again.

        Raises:
            UnknownModelError: If there is no such model.
            CheckpointRejectedError: If the checkpoint cannot serve; the old one still does.
            NotReadyError: If the service is still loading.
        """
        engine = self.engine
        collection = engine.collection
        with self._reloading:
            started = time.perf_counter()
            old = collection.view.served(name)
            path = self._checkpoints[name]
            if path is None:
                raise UnknownModelError("model", "one that has a checkpoint", repr(name))
            path = path if folder is None else path.parent / folder
            view = collection.view
            state = load_state(
                path, view.dimension or None, view.embedding_model, self.settings.dtype
            )
            if state.reason is not None:
                raise _rejected(state)
            model = collection.prepare_model(name, state, rerank=self.settings.rerank)
            try:
                engine.warm_up(collection.trial(model))
            except Exception as error:
                log.exception("a checkpoint failed its first query")
                collection.discard(model)
                raise CheckpointRejectedError(
                    "the checkpoint failed its first query", reason="warm_up_failed"
                ) from error
            collection.set_model(model)
            self._checkpoints[name] = path
        assert state.checkpoint is not None
        previous = old.state.checkpoint
        return {
            "model": name,
            "version": state.checkpoint.version,
            "previous": None if previous is None else previous.version,
            "status": state.status,
            "took_ms": round((time.perf_counter() - started) * 1000.0, 3),
        }

    def gauges(self) -> Gauges | None:
        """The state that metrics show; None while loading."""
        if self._engine is None:
            return None
        collection = self._engine.collection
        models, found = collection.view.models.items(), collection.gauges()
        return Gauges(
            **found,
            queue_waiting=self.workers.waiting,
            queue_limit=self.settings.queue_limit,
            writes_waiting=self.writers.waiting,
            writes_limit=self.settings.write_queue_limit,
            ready=found.get("index_available", True),
            models=tuple(_model_gauge(name, one.state) for name, one in models),
        )

    def _share(self, computing: int) -> None:
        """Have the calling thread compute by its part of all threads."""
        _set_threads(max(1, self._threads // computing))

    def _load(self) -> None:
        _set_threads(self._threads)
        try:
            engine = self._built()
        except StoreError as error:
            self._reason = str(error).replace(f"{self.settings.data}/", "")
            log.error("not ready: %s", self._reason)
            self._announce(f"not ready: {error}")
        except Exception:
            self._reason = "loading failed"
            log.exception("not ready: loading failed")
            self._announce("not ready: loading failed, see the log")
        else:
            # What was loaded stays: the collector of garbage need not look at it again and again.
            gc.collect()
            gc.freeze()
            self._engine = engine
            for line in _ready_lines(engine.collection, self.settings):
                self._announce(line)

    def _built(self) -> Engine:
        """Build the engine, again and again while what holds the chunks is away."""
        while True:
            try:
                return self._build()
            except IndexUnavailableError as error:
                if self._opened is not None:
                    self._opened.close()
                    self._opened = None
                if self._reason != error.detail:
                    self._reason = error.detail
                    log.warning("not ready yet: %s", error)
                    self._announce(f"not ready yet: {error}")
                if self._stopping.wait(self.settings.retry_after_s):
                    raise

    def _build(self) -> Engine:
        settings = self.settings
        if settings.dtype == "bfloat16" and not has_bfloat16():
            log.warning("dtype: this processor has no bfloat16; computing in float32")
            self.settings = settings = settings.model_copy(update={"dtype": "float32"})
        self._opened = self._open()
        collection = self._opened.collection
        for name, served in collection.view.models.items():
            _report(name, served.state, self._announce)
        name = settings.embedder or collection.view.embedding_model
        embed = LazyEmbedder(self._load_embedder, name)
        engine = Engine(collection, settings, embed)
        engine.warm_up()
        self._writer = Writer(collection, settings, embed)
        self._opened.start()
        return engine

    def _open(self) -> Opened:
        if not self.settings.index_url:
            return open_collection(self.settings)
        from service.milvus.opening import open_milvus  # an extra

        return open_milvus(self.settings)

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(
            f"cannot answer yet: {self._reason}",
            reason=self._reason,
            retry_after_s=self.settings.retry_after_s,
        )


def _rejected(state: ModelState) -> CheckpointRejectedError:
    return CheckpointRejectedError(
        f"the checkpoint cannot serve: {state.detail}", reason=str(state.reason)
    )


def _model_gauge(name: str, state: ModelState) -> ModelGauge:
    checkpoint = state.checkpoint
    if checkpoint is None:
        return ModelGauge(name, "none", "none", state.status)
    gate = "passed" if checkpoint.passed else "failed"
    return ModelGauge(name, checkpoint.version, gate, state.status)


def _report(name: str, state: ModelState, announce: Callable[[str], None]) -> None:
    if state.reason is None:
        return
    log.warning("model %s: auto answers by %s (%s)", name, state.retrieval, state.reason)
    which = "" if name == DEFAULT_MODEL else f"model {name}: "
    announce(f"{which}answering by retrieval ({state.reason}): {state.detail}")


def _ready_lines(collection: Backend, settings: Settings) -> Iterator[str]:
    view, store = collection.view, collection.store_status()
    state = view.models[DEFAULT_MODEL].state
    mode = "p8" if state.reason is None else f"retrieval by {state.retrieval}"
    yield f"ready: {store['chunks']} chunks, {store['documents']} documents, mode {mode}"
    if settings.port and store["chunks"]:
        yield _example_line(collection, settings)


def _example_line(collection: Backend, settings: Settings) -> str:
    """A question to paste: what follows the first chunks of the first document long enough."""
    view = collection.view
    window = view.models[DEFAULT_MODEL].scorer.window
    documents = collection.documents(EXAMPLES, 0)["documents"]
    chosen = next((one for one in documents if one["chunks"] > window), documents[0])
    slots = view.document(chosen["id"])[:window]
    body = json.dumps({"context_ids": [view.slots.ids[slot] for slot in slots]})
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    scheme = "http" if settings.tls_certificate is None else "https"
    return (
        f"try: curl -s {scheme}://{host}:{settings.port}/v1/rank "
        f"-H 'content-type: application/json' -d {shlex.quote(body)}"
    )


def _set_threads(count: int) -> None:
    """Set how many threads the calling one computes by."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
