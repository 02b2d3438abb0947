"""The engine without a socket: deadlines in mid-flight, large filters, graph indexes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.index import FLAT_UP_TO, HNSW_FACTORY, VectorIndex
from models.ranking import Corpus, rank_corpus
from models.scoring import Method
from service.engine import Engine
from service.errors import DeadlineError
from service.library import Library, load_library, open_store
from service.modes import ModelState, load_state
from service.settings import Settings
from service.store import ChunkRow, Store
from service.timing import Deadline, Stages

from .conftest import DIMENSION, unit_rows

FOREVER_MS = 1e9


def _engine(library: Library, state: ModelState) -> Engine:
    settings = Settings.model_construct(batch_limit=8, candidates_limit=8)
    return Engine(library, state, settings, lambda _: np.empty((0, DIMENSION), np.float32))


def _rank(engine: Engine, **body: object) -> dict[str, Any]:
    return engine.rank(body, Stages(), Deadline(FOREVER_MS))


def _ids(answer: dict[str, Any]) -> list[str]:
    return [result["id"] for result in answer["results"]]


@pytest.fixture(scope="module")
def small(data: Path, checkpoint: Path) -> Iterator[Engine]:
    state = load_state(checkpoint, DIMENSION)
    library = load_library(data, open_store(data), state)
    yield _engine(library, state)
    library.store.close()


class Ticks:
    """A clock that stands at 0 until it has been read often enough, and then is late."""

    def __init__(self, reads: int) -> None:
        self.left = reads

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 10.0


@pytest.mark.parametrize(("reads", "reason"), [(1, "deadline"), (2, "deadline"), (3, None)])
def test_the_deadline_counts_until_the_re_ranking(
    small: Engine, reads: int, reason: str | None
) -> None:
    # Reads: when the deadline is set, before the query, before the re-ranking.
    body = {"context_ids": ["alpha:0"]}
    answer = small.rank(body, Stages(), Deadline(5.0, Ticks(reads)))
    assert answer["fallback_reason"] == reason
    assert answer["model"]["method"] == ("direct" if reason else "p8")
    if reason:
        for mode in ("p8", "retrieval"):
            with pytest.raises(DeadlineError, match="within 5 ms"):
                small.rank({**body, "mode": mode}, Stages(), Deadline(5.0, Ticks(reads)))


def test_it_ranks_as_offline_evaluation_does(small: Engine) -> None:
    corpus = small.library.corpus
    window = np.array([3, 4, 5])
    queries = small.scorer.query(*small.scorer.pack([corpus.raw_ND[window]]), Method.P8)
    offline = rank_corpus(small.scorer, queries, corpus, [window], 10)[0]
    answer = _rank(small, context_ids=["alpha:3", "alpha:4", "alpha:5"])
    ids = small.library.catalogue.ids
    assert _ids(answer) == [ids[row] for row in offline.rows_K]
    assert [result["score"] for result in answer["results"]] == offline.scores_K.tolist()


COUNT = FLAT_UP_TO + 600


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """More chunks than are compared one by one, two documents, a flat index."""
    folder = tmp_path_factory.mktemp("large")
    raw_ND = unit_rows(COUNT, 4)
    store = Store(folder / "store.sqlite", create=True)
    store.replace(
        (
            ChunkRow(
                id=f"{'few' if row < 300 else 'many'}:{row}",
                document_id="few" if row < 300 else "many",
                position=row,
                text="",
                metadata={},
                vector_D=raw_ND[row],
            )
            for row in range(COUNT)
        ),
        dimension=DIMENSION,
        embedding_model="m",
        name="n",
        source="s",
    )
    store.close()
    flat = VectorIndex.build(raw_ND, "Flat")
    state = load_state(None, DIMENSION)
    opened = open_store(folder)
    fingerprint = {
        "store_id": opened.info.store_id,
        "store_version": 1,
        "checkpoint": "raw",
        "dimension": DIMENSION,
    }
    flat.save(folder / "index-raw.faiss", fingerprint)
    library = load_library(folder, opened, state)
    yield _engine(library, state)
    library.store.close()


def _nearest(query_D: np.ndarray, rows: range, count: int) -> list[int]:
    cosines_N = unit_rows(COUNT, 4)[rows.start : rows.stop] @ query_D
    return [rows.start + int(row) for row in np.argsort(-cosines_N)[:count]]


@pytest.mark.parametrize(
    ("document", "rows"), [("few", range(300)), ("many", range(300, COUNT)), (None, range(COUNT))]
)
def test_every_way_of_searching_is_exact_over_a_flat_index(
    large: Engine, document: str | None, rows: range
) -> None:
    assert large.library.corpus.raw_index.factory == "Flat"
    query_D = unit_rows(1, 99)[0]
    limits = {"filter": {"document_ids": [document]}} if document else {}
    answer = _rank(large, context=[query_D.tolist()], top_k=20, **limits)
    found = [int(chunk_id.partition(":")[2]) for chunk_id in _ids(answer)]
    assert found == _nearest(query_D, rows, 20)


def test_a_narrow_filter_is_exact_over_a_graph_index(large: Engine) -> None:
    raw_ND = large.library.corpus.raw_ND[:3000]
    graph = VectorIndex.build(raw_ND, HNSW_FACTORY)
    corpus = Corpus(raw_ND=raw_ND, projected_ND=raw_ND, raw_index=graph, projected_index=graph)
    engine = _engine(dataclasses.replace(large.library, corpus=corpus), large.state)
    query_D = -raw_ND[0]  # far from all of the filter's chunks
    limits = {"filter": {"document_ids": ["few"]}}
    answer = _rank(engine, context=[query_D.tolist()], top_k=300, **limits)
    found = [int(chunk_id.partition(":")[2]) for chunk_id in _ids(answer)]
    assert found == _nearest(query_D, range(300), 300)
