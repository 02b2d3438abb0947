"""The real Milvus of these tests does what they rely on."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient, MilvusException

from tests.milvus.server import MilvusServer

ROWS, MORE, DIMENSION, QUESTIONS, TOP = 4_000, 7, 384, 50, 10
BACK_WITHIN_S = 30.0


def count(client: MilvusClient) -> int:
    """Rows, as soon as what was loaded is loaded again."""
    until = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            told = client.query(
                "fresh", filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
            return int(told[0]["count(*)"])
        except MilvusException:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.mark.timeout(300)
def test_fresh_rows_are_searched_exactly_and_survive_any_end(
    tmp_path: Path, milvus_binary: Path, generator: np.random.Generator
) -> None:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with MilvusServer(tmp_path, milvus_binary, port=19630) as server:
        client = MilvusClient(server.uri)
        schema = MilvusClient.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        index = MilvusClient.prepare_index_params()
        graph = {"M": 16, "efConstruction": 200}
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=graph)
        client.create_collection("fresh", schema=schema, index_params=index)
        # No structure at all: what an approximate index is worst at.
        vectors_ND = generator.standard_normal((ROWS, DIMENSION), dtype=np.float32)
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        for start in range(0, ROWS, 1_000):
            rows = range(start, start + 1_000)
            client.insert("fresh", [{"id": row, "vector": vectors_ND[row]} for row in rows])
        questions_QD = generator.standard_normal((QUESTIONS, DIMENSION), dtype=np.float32)
        expected_QK = np.argsort(-questions_QD @ vectors_ND.T, axis=1)[:, :TOP]
        found = client.search(
            "fresh", data=list(questions_QD), limit=TOP, consistency_level="Strong"
        )
        assert [[hit["id"] for hit in hits] for hits in found] == expected_QK.tolist()

        ends: list[Callable[[], object]] = [server.kill, server.stop]
        for number, end in enumerate(ends):
            extra = range(ROWS + number * MORE, ROWS + (number + 1) * MORE)
            client.insert("fresh", [{"id": row, "vector": vectors_ND[0]} for row in extra])
            end()
            server.start()
            assert count(client) == extra.stop
