"""Chunks in Milvus as the service's backend: writing them, and the models that search them.

Shapes: N chunks, D dimension.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.scoring import Scorer
from service.backend import Told
from service.errors import IdempotencyKeyReusedError
from service.filters import ChunkFilter
from service.idempotency import IDEMPOTENCY_S, IdempotencyKey, Written
from service.milvus import survey
from service.milvus.link import STRONG
from service.milvus.store import MilvusStore
from service.milvus.tables import CHUNKS, check_chunks, key_of, learned_row, learned_table
from service.milvus.view import MilvusView, matching_ids
from service.modes import DEFAULT_MODEL, ModelState
from service.retrieval import Space
from service.rows import ChunkRow, Kind, portions
from service.view import AnyView, Served

log = logging.getLogger(__name__)

PROJECTED_AT_ONCE = 1000
FORGET_EVERY_S = 3600.0
COUNT_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class MilvusModel:
    """A model, and the table of its space."""

    name: str
    served: Served
    table: str | None
    """None if it works in the raw space."""

    @property
    def scorer(self) -> Scorer:
        """What projects."""
        return self.served.plain


class MilvusCollection:
    """Chunks that can be written and searched at once, by any number of replicas.

    Args:
        store: The tables.
        embedding_model: What makes the vectors, for a store that does not say.
    """

    def __init__(self, store: MilvusStore, embedding_model: str) -> None:
        self.store = store
        self._embedding_model = store.about.embedding_model or embedding_model
        self._models: dict[str, MilvusModel] = {}
        self._served: Mapping[str, Served] = {}
        self._changing = threading.Lock()
        """Held while models change, or derived tables are made good."""
        self._counted_s = 0.0
        self._forgot_s = time.monotonic()
        self._unequal: set[str] = set()
        """Learned tables that lacked chunks, or had too many, when they were counted last."""
        self.facts = survey.Facts()

    @property
    def view(self) -> MilvusView:
        """What a request that comes now sees."""
        return MilvusView(self.store, self._served)

    @property
    def latest(self) -> MilvusView:
        """The same, with every write that was acknowledged anywhere."""
        return MilvusView(self.store, self._served, STRONG)

    def upsert(
        self, chunks: Sequence[ChunkRow], key: IdempotencyKey | None, on_stored: Told
    ) -> Written:
        """Write chunks; when this returns every replica finds them.

        Raises:
            TextTooLongError: If a text has more bytes than Milvus takes.
            MetadataTooLargeError: The same of metadata.
            WrongDimensionError: If another replica has decided the dimension otherwise.
            IdempotencyKeyReusedError: If the key came with another request before.
            IndexUnavailableError: If Milvus is away; what it has of the write then is completed by
                sending it again.
        """
        check_chunks(chunks)
        dimension = len(chunks[0].vector_D)
        self.store.create(Kind(dimension=dimension, embedding_model=self._embedding_model))
        # One that was acknowledged is found without waiting, and one that was not may be carried
        # out again: it comes to the same.
        if key is not None and (earlier := self._replay(key, self.store.link.level)) is not None:
            on_stored(earlier)
            return earlier
        version = self.store.next_version()
        documents = {chunk.document_id for chunk in chunks}
        replaced = self.store.replaced([chunk.id for chunk in chunks], documents)
        rows = self.store.put_chunks(chunks, version)
        raw_ND = np.stack([chunk.vector_D for chunk in chunks])
        tables = {one.table: one for one in self._models.values() if one.table is not None}
        for table, model in tables.items():
            learned_ND = model.scorer.project(raw_ND)
            self.store.put(table, list(map(learned_row, rows, learned_ND)))
        for table in set(self.store.learned_tables) - tables.keys():
            # Other replicas' spaces, which this one cannot project to: they see that it is gone.
            self.store.drop_keys(table, [row["key"] for row in rows])
        self.store.forget_documents(replaced)
        written = self._written(version, len(chunks), key)
        on_stored(written)
        record = "" if key is None else _record_key(key)
        self.store.wait_for(rows[-1]["key"], list(tables), chunks[-1].document_id, record)
        self._counted_s = 0.0
        return written

    def delete(self, ids: Sequence[str], key: IdempotencyKey | None, on_stored: Told) -> Written:
        """Delete chunks by id; when this returns no replica finds them.

        Raises:
            IdempotencyKeyReusedError: If the key came with another request before.
            IndexUnavailableError: If Milvus is away.
        """
        # Done again, it would find nothing to delete, and say so.
        if key is not None and (earlier := self._replay(key, STRONG)) is not None:
            on_stored(earlier)
            return earlier
        version = self.store.next_version()
        deleted = self.store.delete_chunks(ids) if self.store.dimension else 0
        written = self._written(version, deleted, key, deleted=deleted)
        on_stored(written)
        self._counted_s = 0.0
        return written

    def ids_matching(self, given: ChunkFilter) -> list[str]:
        """The ids of all chunks that pass a filter."""
        return matching_ids(self.store, given) if self.store.dimension else []

    def contents(self, view: AnyView, slots: set[int]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Texts and metadata by slot of a view."""
        assert isinstance(view, MilvusView)
        return view.contents(slots)

    def documents(self, limit: int, offset: int) -> dict[str, Any]:
        """List a page of the documents, in the order of their ids."""
        return survey.documents(self.store, limit, offset)

    def store_status(self) -> dict[str, Any]:
        """Count what can be found, as it was counted last."""
        return survey.store_status(self)

    def stats(self) -> dict[str, Any]:
        """Count what is stored, searched and indexed."""
        self.count()
        return survey.stats(self, self._models.values())

    def indexes(self, served: Served) -> dict[str, dict[str, Any]]:
        """Describe the index of each space that a model uses."""
        return survey.indexes(self, self._models[served.name])

    def check(self) -> None:
        """Raise IndexUnavailableError if Milvus is away."""
        self.store.link.check()

    def gauges(self) -> dict[str, Any]:
        """Say what metrics show of it."""
        return survey.gauges(self)

    def prepare_model(self, name: str, state: ModelState, *, rerank: bool) -> MilvusModel:
        """Make a model ready: project all chunks that its table lacks."""
        plain = state.scorer(rerank=False)
        served = Served(
            name=name,
            state=state,
            scorer=state.scorer() if rerank else plain,
            plain=plain,
            space=Space(vectors=np.empty((0, self.store.dimension), np.float32), index=None),
        )
        if not state.learned:
            return MilvusModel(name=name, served=served, table=None)
        assert state.usable is not None
        dimension = state.usable.model.config.dimension
        self.store.create(Kind(dimension=dimension, embedding_model=self._embedding_model))
        model = MilvusModel(name=name, served=served, table=learned_table(state.usable.version))
        with self._changing:
            self._make_good(model)
        return model

    def trial(self, model: MilvusModel) -> MilvusView:
        """What requests would see if a prepared model were the only one."""
        return MilvusView(self.store, {DEFAULT_MODEL: replace(model.served, name=DEFAULT_MODEL)})

    def set_model(self, model: MilvusModel) -> None:
        """Serve a prepared model under its name."""
        with self._changing:
            self._models = {**self._models, model.name: model}
            self._served = {name: one.served for name, one in self._models.items()}

    def discard(self, model: MilvusModel) -> None:
        """Let go of a prepared model: its table stays, for it may serve another replica."""

    def count(self) -> None:
        """Count what is there."""
        self.facts = survey.count(self.store, self._tables)
        self._counted_s = time.monotonic()

    def look_after(self) -> None:
        """Do what has to be done from time to time, while Milvus answers."""
        now_s = time.monotonic()
        if now_s - self._counted_s < COUNT_EVERY_S:
            return
        self.store.discover()
        for model in self._models.values():
            if model.table is not None and model.table not in self.store.learned_tables:
                with self._changing:
                    self._make_good(model)
        self.count()
        unequal = {table for table, size in self.facts.learned.items() if size != self.facts.chunks}
        # Twice in turn: a count between the two halves of a write says nothing.
        for model in self._models.values():
            if model.table in unequal & self._unequal:
                with self._changing:
                    self._make_good(model)
        self._unequal = unequal
        if now_s - self._forgot_s > FORGET_EVERY_S and self.store.dimension:
            self._forgot_s = now_s
            self.store.drop_records(_microseconds(time.time() - IDEMPOTENCY_S))

    @property
    def _tables(self) -> list[str]:
        return [one.table for one in self._models.values() if one.table is not None]

    def _make_good(self, model: MilvusModel) -> None:
        """Bring a learned table to what the chunks' table has."""
        assert model.table is not None
        self.store.make_table(model.table, self.store.dimension)
        if self.store.count(CHUNKS, STRONG) == self.store.count(model.table, STRONG):
            return
        lacking, left_over = self.store.differences(model.table)
        for some in portions(lacking, PROJECTED_AT_ONCE):
            self._project(model, some)
        self.store.drop_keys(model.table, left_over)
        log.info(
            "model %s: %d chunks projected, %d left over", model.name, len(lacking), len(left_over)
        )

    def _project(self, model: MilvusModel, keys: Sequence[str]) -> None:
        """Write what a learned table has of some chunks, as they are when this returns."""
        assert model.table is not None
        while keys:
            rows = self.store.rows_of(keys)
            if rows:
                raw_ND = np.stack([np.array(row["vector"], np.float32) for row in rows])
                self.store.put(
                    model.table, list(map(learned_row, rows, model.scorer.project(raw_ND)))
                )
            # Whoever wrote or deleted one meanwhile may have been here before.
            now = self.store.versions_of([row["key"] for row in rows])
            self.store.drop_keys(model.table, [row["key"] for row in rows if row["key"] not in now])
            keys = [row["key"] for row in rows if now.get(row["key"], -1) > row["written"]]

    def _replay(self, key: IdempotencyKey, level: str) -> Written | None:
        found = self.store.record(_record_key(key), level)
        if found is None or found["version"] < _microseconds(time.time() - IDEMPOTENCY_S):
            return None
        if found["request"] != key.request:
            raise IdempotencyKeyReusedError(
                "Idempotency-Key",
                "a new key for a new request",
                "one that came with another request",
            )
        return Written(
            version=found["version"], rows=[], deleted=0, replayed=True, count=found["count"]
        )

    def _written(
        self, version: int, count: int, key: IdempotencyKey | None, deleted: int = 0
    ) -> Written:
        if key is not None and self.store.dimension:
            body = {"request": key.request, "version": version, "count": count}
            self.store.put_record(_record_key(key), body, version)
        return Written(version=version, rows=[], deleted=deleted, replayed=False, count=count)


def _record_key(key: IdempotencyKey) -> str:
    return f"w{key_of(key.key)}"


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
