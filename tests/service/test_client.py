"""Every operation of both clients, against the real service over a real socket."""

import asyncio
import inspect
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import ormsgpack
import pytest

from service import client as public
from service import errors
from service.client import AsyncClient, Client, RankQuery, calls, encode_vector
from service.keys import create_key

from .clients import KINDS, Connect, Play, Scripted, check_type, connecting
from .conftest import COUNTS, Live, live, unit_rows

ALPHA = ["alpha:0", "alpha:1"]
RAW_ND = unit_rows(sum(COUNTS.values()), 1)
ENCODINGS = ("base64", "msgpack")


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connecting(request.param) as opened:
        yield opened


@pytest.fixture(params=ENCODINGS)
def client(request: pytest.FixtureRequest, connect: Connect, service: Live) -> Any:
    return connect(service.url, encoding=request.param)


@pytest.fixture
def own(data: Path, checkpoint: Path, tmp_path: Path) -> Iterator[Live]:
    """A service over a copy of the data, which a test may change."""
    with live(shutil.copytree(data, tmp_path / "data"), checkpoint) as running:
        yield running


def _scores(answer: dict[str, Any]) -> list[tuple[str, np.float32]]:
    return [(result["id"], np.float32(result["score"])) for result in answer["results"]]


def _close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same but for the last bits, which depend on what was computed together."""
    assert [result["id"] for result in one["results"]] == [
        result["id"] for result in other["results"]
    ]
    assert [result["score"] for result in one["results"]] == pytest.approx(
        [result["score"] for result in other["results"]], abs=1e-5
    )


QUESTIONS: dict[str, dict[str, Any]] = {
    "ids": {"context_ids": ALPHA, "top_k": 7},
    "vectors": {"context": RAW_ND[:3], "mode": "retrieval"},
    "place": {"context_at": {"document_id": "delta", "position": 4}, "only_unseen": True},
    "candidates": {"context_ids": ALPHA, "candidates": [{"id": "beta:1"}, {"vector": RAW_ND[30]}]},
    "filter": {
        "context_ids": ALPHA,
        "document_ids": ["beta", "delta"],
        "filter": {"position": {"gte": 2}, "metadata": {"section": {"in": ["Part 1", "Part 2"]}}},
        "exclude_ids": ["beta:5"],
        "max_per_document": 3,
        "rerank": False,
        "explain": True,
        "model": "default",
        "top_k": 20,
    },
}


def _body(question: dict[str, Any]) -> dict[str, Any]:
    """The same question in plain JSON."""
    body = dict(question)
    if "context" in body:
        body["context"] = body["context"].tolist()
    if "candidates" in body:
        body["candidates"] = [
            {name: np.asarray(value).tolist() for name, value in one.items()}
            for one in body["candidates"]
        ]
    if "document_ids" in body:
        body["filter"] = {**body["filter"], "document_ids": body.pop("document_ids")}
    return body


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_rank_is_what_the_service_answers(
    service: Live, client: Any, question: dict[str, Any]
) -> None:
    plain = service.ok("/v1/rank", _body(question))
    answer = client.rank(**question, timeout_s=10.0)
    check_type(answer, public.Answer)
    assert _scores(answer) == _scores(plain)
    assert len(answer["results"]) > 1
    assert ("explain" in answer) is ("explain" in question)
    batch = client.rank_batch([question, {"context_ids": ["beta:0"]}])
    other = service.ok("/v1/rank", {"context_ids": ["beta:0"]})
    for one, alone in zip(batch, (plain, other), strict=True):
        _close(one, alone)


def test_score_order_and_sequence(service: Live, client: Any) -> None:
    candidates = [{"id": "beta:1"}, {"vector": RAW_ND[30], "id": "mine"}]
    scored = client.score(candidates, RAW_ND[:2])
    check_type(scored, public.Answer)
    assert [result["id"] for result in scored["results"]] == ["beta:1", "mine"]
    assert _scores(scored) == _scores(client.score(candidates, context_ids=ALPHA))

    forth = service.ok("/v1/order", {"a_id": "alpha:0", "b_id": "alpha:1"})["p_b_after_a"]
    assert client.order(RAW_ND[0], RAW_ND[1].astype(float)) == forth
    assert client.order(a_id="alpha:1", b=RAW_ND[0], model="default") == 1.0 - forth
    pairs = [{"a_id": "alpha:0", "b_id": "alpha:1"}, {"a": RAW_ND[1], "b": RAW_ND[0]}]
    assert client.orders(pairs) == client.orders(pairs, model="default") == [forth, 1.0 - forth]
    with pytest.raises(errors.UnknownModelError):
        client.orders(pairs, model="other")

    ids = [f"beta:{place}" for place in (3, 0, 7, 1)]
    bags = [{"ids": ids}, {"chunks": [RAW_ND[12 + place] for place in (3, 0, 7, 1)]}]
    for bag in bags:
        answer = client.sequence(**bag)
        check_type(answer, public.SequenceAnswer)
        assert sorted(one["index"] for one in answer["order"]) == [0, 1, 2, 3]
    assert len(client.sequence(document_id="x/y:z")["order"]) == 7


def test_looking_up(service: Live, client: Any) -> None:
    for name, kind in (
        ("stats", public.Stats),
        ("model", public.ModelDetails),
        ("models", public.Models),
        ("ready", public.Ready),
        ("live", public.Alive),
        ("documents", public.Documents),
    ):
        check_type(getattr(client, name)(), kind)
    assert client.model("default")["name"] == "default"
    with pytest.raises(errors.UnknownModelError):
        client.model("other")
    page = client.documents(limit=2, offset=1)
    assert [one["id"] for one in page["documents"]] == ["beta", "x/y:z"]
    for size in (1, 3, 4, 100):
        found = list(client.iter_documents(page_size=size))
        assert {one["id"]: one["chunks"] for one in found} == COUNTS
        assert len(found) == len(COUNTS)


def test_vectors_come_back_as_float32(client: Any) -> None:
    plain = client.chunk("x/y:z:3")
    chunk = client.chunk("x/y:z:3", vector=True)
    check_type(chunk, public.Chunk)
    vector_D = chunk.pop("vector")
    assert chunk == plain
    np.testing.assert_array_equal(vector_D, RAW_ND[12 + 9 + 3])
    vector_D[0] = 2.0  # the caller's own
    document = client.document("delta", vectors=True)
    check_type(document, public.Document)
    np.testing.assert_array_equal(
        np.stack([one["vector"] for one in document["content"]]), RAW_ND[28:]
    )
    assert "vector" not in client.document("delta")["content"][0]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_writing_and_deleting(own: Live, connect: Connect, encoding: str) -> None:
    client = connect(own.url, encoding=encoding)
    fresh_ND = unit_rows(5, 99)
    chunks = [
        {
            "id": f"new:{place}",
            "document_id": "new",
            "position": place,
            "vector": 3.0 * fresh_D.astype(float),
            "text": f"größer {place}",
            "metadata": {"place": place, "tags": ["a", "b"]},
        }
        for place, fresh_D in enumerate(fresh_ND)
    ]
    written = client.upsert(iter(chunks))
    check_type(written, public.Upserted)
    assert (written["upserted"], written["status"]) == (5, "searchable")
    found = client.document("new", vectors=True)
    assert [one["metadata"] for one in found["content"]] == [one["metadata"] for one in chunks]
    np.testing.assert_allclose(
        np.stack([one["vector"] for one in found["content"]]), fresh_ND, atol=1e-6
    )
    nearest = client.rank([fresh_ND[2]], mode="retrieval", top_k=1)["results"][0]
    assert (nearest["id"], nearest["text"]) == ("new:2", "größer 2")

    assert client.delete(["new:0", "nowhere"])["deleted"] == 1
    deleted = client.delete(filter={"metadata": {"place": {"gte": 3}}})
    check_type(deleted, public.Deleted)
    assert deleted["deleted"] == 2
    assert client.delete_document("new")["deleted"] == 2
    for gone in (client.document, client.delete_document):
        with pytest.raises(errors.DocumentNotFoundError):
            gone("new")
    with pytest.raises(errors.ChunkNotFoundError):
        client.chunk("new:2")
    assert client.upsert(chunks, wait=False)["status"] in ("stored", "searchable")


def test_an_idempotency_key_names_one_write(own: Live, connect: Connect) -> None:
    client = connect(own.url)
    chunks = [{"id": "k:0", "document_id": "k", "position": 0, "vector": RAW_ND[0]}]
    once = client.upsert(chunks, idempotency_key="night-1")
    assert client.upsert(chunks, idempotency_key="night-1") == once
    assert client.upsert(chunks)["version"] > once["version"]
    with pytest.raises(errors.IdempotencyKeyReusedError):
        client.upsert([{**chunks[0], "position": 1}], idempotency_key="night-1")
    gone = client.delete_document("k", idempotency_key="night-2")
    assert client.delete_document("k", idempotency_key="night-2") == gone
    for bad in ("", "two words", "größer", "line\n"):
        with pytest.raises(ValueError, match=r"^idempotency_key: expected visible ASCII"):
            client.upsert(chunks, idempotency_key=bad)


def test_many_chunks_are_written_batch_by_batch(own: Live, connect: Connect) -> None:
    client, taken = connect(own.url), []

    def endless() -> Iterator[dict[str, Any]]:
        for place, vector_D in enumerate(unit_rows(23, 5)):
            taken.append(place)
            yield {"id": f"m:{place}", "document_id": "m", "position": place, "vector": vector_D}

    written = client.upsert_many(endless(), batch_size=10)
    assert taken == []
    assert next(written)["upserted"] == 10
    assert len(taken) == 10
    assert [one["upserted"] for one in written] == [10, 3]
    assert client.document("m")["chunks"] == 23
    with pytest.raises(ValueError, match="batch_size"):
        next(client.upsert_many([], batch_size=0))


def test_reload(own: Live, connect: Connect) -> None:
    client = connect(own.url)
    answer = client.reload()
    check_type(answer, public.Reloaded)
    assert answer["model"] == "default"
    with pytest.raises(errors.CheckpointRejectedError):
        client.reload(checkpoint="nowhere")
    assert client.ready()["mode"] == "p8"


def test_api_keys(data: Path, tmp_path: Path, connect: Connect) -> None:
    keys = tmp_path / "keys.json"
    reader = create_key(keys, "reader", ["read"])
    with live(data, api_keys=keys) as running:
        with pytest.raises(errors.UnauthenticatedError):
            connect(running.url).stats()
        client = connect(running.url, api_key=reader)
        assert client.stats()["store"]["chunks"] == len(RAW_ND)
        with pytest.raises(errors.ForbiddenError):
            client.delete(["alpha:0"])
        assert connect(running.url).ready()["status"] == "ready"


def test_a_mistake_is_the_error_of_the_service(client: Any) -> None:
    with pytest.raises(errors.WrongDimensionError) as caught:
        client.rank([[1.0, 2.0]])
    assert caught.value.members["field"] == "context.0"
    assert caught.value.request_id
    with pytest.raises(errors.InvalidRequestError):
        client.rank(context_ids=ALPHA, timeout_s=-1)
    for impossible in (object(), np.zeros(3)):
        with pytest.raises(TypeError, match=type(impossible).__name__):
            client.rank(context_ids=ALPHA, filter={"metadata": {"a": impossible}})
    with pytest.raises(ValueError, match="document_ids"):
        client.rank(context_ids=ALPHA, document_ids=["a"], filter={"document_ids": ["b"]})


def test_many_calls_at_once_share_few_connections(service: Live) -> None:
    limits = httpx.Limits(max_connections=2)
    expected = [service.ok("/v1/rank", {"context_ids": [f"delta:{n}"]}) for n in range(20)]

    async def gathered() -> list[Any]:
        async with AsyncClient(service.url, limits=limits) as client:
            return await asyncio.gather(
                *(client.rank(context_ids=[f"delta:{number}"]) for number in range(20))
            )

    with Client(service.url, limits=limits) as client, ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda n: client.rank(context_ids=[f"delta:{n}"]), range(20)))
    for answers in (threaded, asyncio.run(gathered())):
        for one, alone in zip(answers, expected, strict=True):
            _close(one, alone)


def test_what_goes_over_the_wire(connect: Connect) -> None:
    with Scripted([Play(body={"results": [], "content": []})]) as server:
        client = connect(server.url + "/below", api_key="nck_secret")
        client.rank([[1, 2]], document_ids=("a",), filter={"position": {"lt": 3}}, only_unseen=True)
        client.chunk("../a b?c")
        client.document("..", vectors=True)
        client.delete(filter={"document_ids": ["a"]}, wait=False, timeout_s=2)
    rank, chunk, document, delete = server.asked
    assert rank.path == "/below/v1/rank"
    assert rank.json == {
        "context": [encode_vector([1, 2])],
        "mode": "auto",
        "rerank": True,
        "filter": {"position": {"lt": 3}, "document_ids": ["a"]},
        "only_unseen": True,
        "top_k": 10,
        "explain": False,
    }
    assert (chunk.path, chunk.query) == ("/below/v1/chunks/..%2Fa%20b%3Fc", {"vector": ["false"]})
    assert document.path == "/below/v1/documents/%2E%2E"
    assert (delete.method, delete.query) == ("DELETE", {"wait": ["false"]})
    assert delete.headers["x-request-timeout"] == "2"
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer nck_secret"}


def test_msgpack_goes_both_ways(connect: Connect) -> None:
    packed = ormsgpack.packb({"p_b_after_a": 0.25})
    answer = Play(body=packed, headers={"Content-Type": "application/msgpack"})
    with Scripted([answer]) as server:
        assert connect(server.url, encoding="msgpack").order([1, 2], b_id="b") == 0.25
    (asked,) = server.asked
    assert asked.headers["content-type"] == "application/msgpack"
    assert asked.headers["accept"] == "application/msgpack, application/json;q=0.5"
    assert ormsgpack.unpackb(asked.body) == {"a": np.array([1, 2], "<f4").tobytes(), "b_id": "b"}


def test_secrets_are_not_shown(connect: Connect) -> None:
    client = connect("http://user:pass@127.0.0.1:9/x", api_key="nck_secret", retry=None)
    with pytest.raises(errors.UnreachableError) as caught:
        client.live()
    for shown in (repr(client), str(caught.value)):
        assert "http://127.0.0.1:9/x" in shown
        assert "pass" not in shown
        assert "nck_secret" not in shown
    with pytest.raises(ValueError, match="api_key: expected visible ASCII") as refused:
        connect("http://127.0.0.1:9", api_key="nck_secret\n")
    assert "nck_secret" not in str(refused.value)


def test_both_clients_have_all_operations_and_say_how_to_call_them() -> None:
    described = {
        name: function
        for name, function in vars(calls).items()
        if inspect.isfunction(function)
        and function.__module__ == calls.__name__
        and not name.startswith("_")
    }
    assert len(described) == 18
    for kind, client in ((Client, Client()), (AsyncClient, AsyncClient())):
        for name, function in described.items():
            method = getattr(client, name)
            wanted, found = inspect.signature(function), inspect.signature(method)
            assert found.parameters == wanted.parameters
            assert (found.return_annotation,) == get_args(wanted.return_annotation)
            assert method.__doc__ == getattr(kind, name).__doc__ == function.__doc__
    rank = inspect.signature(calls.rank).parameters
    assert RankQuery.__annotations__.keys() == rank.keys() - {"timeout_s"}


def test_a_client_closes_with_its_block(service: Live) -> None:
    with Client(service.url) as client:
        client.live()
    with pytest.raises(RuntimeError, match="closed"):
        client.live()

    async def used() -> AsyncClient:
        async with AsyncClient(service.url) as client:
            assert client.live.__name__ == "live"
            assert await client.live() == {"status": "alive"}
        return client

    closed = asyncio.run(used())
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(closed.live())
