"""The same call in every encoding, over a real socket: identical ids and scores, bit for bit."""

import base64
from typing import Any

import httpx
import numpy as np
import ormsgpack
import pytest

from .conftest import DIMENSION, Live, unit_rows

MSGPACK = "application/msgpack"
OCTETS = "application/octet-stream"


def _send(service: Live, path: str, body: Any, **headers: str) -> httpx.Response:
    content = ormsgpack.packb(body) if headers.get("content_type") == MSGPACK else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = service.http.post(path, content=content, headers=named)
    assert response.status_code == 200, response.text
    return response


def _read(response: httpx.Response) -> dict[str, Any]:
    if response.headers["content-type"] == MSGPACK:
        return dict(ormsgpack.unpackb(response.content))
    return dict(response.json())


def _bits(answer: dict[str, Any]) -> list[tuple[str | None, bytes]]:
    """Ids, and scores, parts and alpha as float32 bytes."""
    results = [
        (one["id"], np.array([one["score"], *one["parts"].values()], np.float32).tobytes())
        for one in answer["results"]
    ]
    return [*results, (None, np.array(answer["alpha"], np.float32).tobytes())]


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 123.456])
@pytest.mark.parametrize("mode", ["p8", "retrieval"])
def test_a_rank_is_the_same_in_every_encoding(
    service: Live, length: int, scale: float, mode: str
) -> None:
    window = (unit_rows(length, 40) * np.float32(scale)).astype("<f4")
    scalars = {"top_k": 48, "mode": mode}
    numbers = {"context": window.tolist(), **scalars}
    texts = {"context": [base64.b64encode(row.tobytes()).decode() for row in window], **scalars}
    bins = {"context": [row.tobytes() for row in window], **scalars}
    query = f"/v1/rank?top_k=48&mode={mode}"
    answers = []
    for accept in ("application/json", MSGPACK):
        sent = [
            service.http.post("/v1/rank", json=numbers, headers={"accept": accept}),
            service.http.post("/v1/rank", json=texts, headers={"accept": accept}),
            _send(service, "/v1/rank", numbers, content_type=MSGPACK, accept=accept),
            _send(service, "/v1/rank", texts, content_type=MSGPACK, accept=accept),
            _send(service, "/v1/rank", bins, content_type=MSGPACK, accept=accept),
            _send(service, query, window.tobytes(), content_type=OCTETS, accept=accept),
        ]
        for response in sent:
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == accept
            answers.append(_read(response))
    assert len(answers) == 12
    first = _bits(answers[0])
    assert len(first) == 49
    assert all(_bits(answer) == first for answer in answers)


def test_order_and_sequence_take_octets(service: Live) -> None:
    bag = unit_rows(6, 41).astype("<f4")
    pair = service.ok("/v1/order", {"a": bag[0].tolist(), "b": bag[1].tolist()})
    bare = _send(service, "/v1/order", bag[:2].tobytes(), content_type=OCTETS)
    assert bare.json() == pair
    whole = service.ok("/v1/sequence", {"chunks": bag.tolist()})
    bare = _send(service, "/v1/sequence", bag.tobytes(), content_type=OCTETS, accept=MSGPACK)
    assert _read(bare) == whole


def test_vectors_come_back_in_every_form(service: Live) -> None:
    get = service.http.get
    numbers = np.array(get("/v1/chunks/beta:3?vector=true").json()["vector"], np.float32)
    np.testing.assert_array_equal(numbers, unit_rows(48, 1)[15])
    packed = _read(get("/v1/chunks/beta:3?vector=true", headers={"accept": MSGPACK}))
    assert packed["vector"] == numbers.tobytes()
    octets = get("/v1/chunks/beta:3", headers={"accept": OCTETS})
    assert (octets.content, octets.headers["X-Vector-Shape"]) == (numbers.tobytes(), "1,16")
    octets = get("/v1/documents/beta", headers={"accept": OCTETS})
    assert octets.headers["X-Vector-Shape"] == "9,16"
    assert octets.content == unit_rows(48, 1)[12:21].tobytes()
    assert "vector" not in get("/v1/chunks/beta:3").json()


def test_octets_that_do_not_fit_are_told(service: Live) -> None:
    headers = {"content-type": OCTETS}
    for path, content, field in (
        ("/v1/rank", b"\0" * 6, "body"),
        ("/v1/rank?top_k=ten", b"\0" * 4 * DIMENSION, "query.top_k"),
        ("/v1/rank?filter=x", b"\0" * 4 * DIMENSION, "query.filter"),
        ("/v1/rank?top_k=3", b"\0" * 4 * DIMENSION, "context.0"),
        ("/v1/order", b"\0" * 4 * DIMENSION, "body"),
    ):
        response = service.http.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["field"]) == (422, field)
    response = service.http.put("/v1/chunks", content=b"\0" * 64, headers=headers)
    assert response.status_code == 415
