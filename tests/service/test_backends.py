"""The contract of ``contract.py`` on the data folder and on a milvus-lite server over TCP."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .contract import AskContract, Backend, asked, models, written  # noqa: F401 (fixtures)
from .contract_replicas import ReplicaContract, replicas  # noqa: F401 (a fixture)
from .contract_writes import WriteContract
from .lite import LiteServer


@contextmanager
def folder() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        yield {"data": Path(scratch) / "data"}


@contextmanager
def lite() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        server = LiteServer(Path(scratch) / "lite").start()
        try:
            yield {"data": Path(scratch) / "data", "index_url": server.url}
        finally:
            server.close()


STORES: dict[str, Callable[[], Any]] = {"embedded": folder, "milvus-lite": lite}


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(name=request.param, store=STORES[request.param])


@pytest.mark.parametrize("backend", ["embedded", "milvus-lite"], indirect=True, scope="module")
class TestBackends(AskContract, WriteContract):
    pass


@pytest.mark.parametrize("backend", ["milvus-lite"], indirect=True, scope="module")
class TestReplicas(ReplicaContract):
    pass
