"""Between the commit of a write and its view, readers still find what it replaces."""

from pathlib import Path

import numpy as np

from service import browse
from service.engine import Engine
from service.opening import open_collection
from service.settings import Settings
from service.store import ChunkRow, Written
from service.timing import Deadline, Stages
from tests.service.conftest import DIMENSION, unit_rows


def _chunks(text: str) -> list[ChunkRow]:
    return [
        ChunkRow(
            id=f"a:{place}",
            document_id="a",
            position=place,
            text=text,
            metadata={},
            vector_D=vector_D,
        )
        for place, vector_D in enumerate(unit_rows(5, 3))
    ]


def _no_texts(texts: list[str], dimension: int) -> list[np.ndarray]:
    raise AssertionError(f"{len(texts)} texts of dimension {dimension} were to be embedded")


def test_a_chunk_that_is_written_again_is_there_all_the_time(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, dimension=DIMENSION)
    opened = open_collection(settings)
    try:
        collection = opened.collection
        engine = Engine(collection, settings, _no_texts)
        collection.upsert(_chunks("first"))
        texts = []

        def read(_: Written) -> None:
            # Committed, and the view is still the one before.
            question = {"context_ids": ["a:0"], "top_k": 10}
            ranked = engine.rank(question, Stages(), Deadline(60_000.0))["results"]
            assert len(ranked) == 4
            document = browse.document(collection, "a")
            assert [chunk["position"] for chunk in document["content"]] == [0, 1, 2, 3, 4]
            texts.append(browse.chunk(collection, "a:2")["text"])

        collection.upsert(_chunks("second"), on_stored=read)
        collection.delete(["a:2"])
        assert len(browse.document(collection, "a")["content"]) == 4
        assert texts == ["second"]
    finally:
        opened.close()
