"""The contract of tests/service/contract.py on a real Milvus.

At the level of consistency that is the default; replicas at the strong one, too.
"""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymilvus import MilvusClient

from tests.service.contract import AskContract, Backend, asked, models, written  # noqa: F401
from tests.service.contract_replicas import ReplicaContract, replicas  # noqa: F401
from tests.service.contract_writes import WriteContract

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest, milvus_url: str) -> Backend:
    """Databases of their own on one server."""
    address = urlsplit(milvus_url).netloc

    def connected(database: str) -> MilvusClient:
        return MilvusClient(uri=f"http://{address}", db_name=database, dedicated=True)

    @contextmanager
    def store() -> Iterator[dict[str, Any]]:
        database = f"contract_{next(NUMBERS)}"
        client = connected("")
        client.create_database(database)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                yield {
                    "data": Path(scratch) / "data",
                    "index_url": f"milvus://{address}/{database}",
                    "index_consistency": request.param,
                }
        finally:
            inside = connected(database)
            for table in inside.list_collections():
                inside.drop_collection(table)
            inside.close()
            client.drop_database(database)
            client.close()

    return Backend(name=f"milvus-{request.param}", store=store, settles_s=10.0)


def at(*levels: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", levels, indirect=True, scope="module")


@at("bounded")
class TestQuestions(AskContract):
    pass


@at("bounded")
class TestWrites(WriteContract):
    pass


@at("bounded")
class TestReplicas(ReplicaContract):
    pass


@at("strong")
class TestStrongReplicas(ReplicaContract):
    pass
