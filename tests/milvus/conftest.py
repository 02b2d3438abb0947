"""A real Milvus for each process of tests. ``.ci/milvus`` runs them where it may listen."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.milvus.server import PORT, MilvusServer

PORTS_EACH = 20


@pytest.fixture(scope="session")
def milvus_binary() -> Path:
    """The program."""
    binary = os.environ.get("MILVUS_BINARY")
    assert binary, "MILVUS_BINARY: expected the path of the program; .ci/milvus sets it"
    return Path(binary)


@pytest.fixture(scope="session")
def milvus_server(
    tmp_path_factory: pytest.TempPathFactory, milvus_binary: Path, worker_id: str
) -> Iterator[MilvusServer]:
    """It runs; a test that ends it starts it again."""
    port = PORT + PORTS_EACH * int(worker_id.removeprefix("gw").replace("master", "0"))
    with MilvusServer(tmp_path_factory.mktemp("milvus"), milvus_binary, port) as server:
        yield server


@pytest.fixture(scope="session")
def milvus_url(milvus_server: MilvusServer) -> str:
    """What ``--index-url`` is given."""
    return milvus_server.url()
