"""The contract of ``contract.py`` on the data folder and on a milvus-lite server over TCP."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.milvus.store import MilvusStore

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


@pytest.mark.parametrize("backend", ["milvus-lite"], indirect=True, scope="module")
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("path", ["rank", "score", "order"])
def test_all_that_a_request_names_is_read_by_one_call(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    here = request.getfixturevalue("asked").here
    calls: list[int] = []
    fetch = MilvusStore.fetch

    def counted(store: MilvusStore, keys: Sequence[str], level: str = "") -> Any:
        calls.append(len(keys))
        return fetch(store, keys, level)

    monkeypatch.setattr(MilvusStore, "fetch", counted)
    ids = [f"alpha:{place}" for place in range(4)]
    query = {"context_ids": ids[:2], "candidates": [{"id": one} for one in ids[2:]]}
    bodies: dict[str, dict[str, Any]] = {
        "rank": {"queries": [query, {**query, "context_ids": ids[1:2]}]},
        "score": query,
        "order": {"pairs": [{"a_id": one, "b_id": other} for one in ids for other in ids]},
    }
    here.ok(f"/v1/{path}", bodies[path])
    assert calls == [4]
