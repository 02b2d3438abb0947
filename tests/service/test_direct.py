"""The short way to an operation answers as FastAPI's own way does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.direct import Direct

from .conftest import Live, live


class _Nothing(Direct):
    """Has no operation, so that FastAPI finds all."""

    def __init__(self) -> None:
        super().__init__((), "read")


CONTEXT = np.eye(16)[:3].tolist()
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/rank", {"json": {"context": CONTEXT, "top_k": 3}}),
    ("POST", "/v1/rank", {"json": {"context": CONTEXT, "top_k": 3, "contents": False}}),
    ("POST", "/v1/rank", {"json": {"queries": [{"context": CONTEXT}] * 2}}),
    ("POST", "/v1/rank", {"json": {"context": CONTEXT, "top_q": 3}}),
    ("POST", "/v1/rank", {"json": {"context": []}}),
    ("POST", "/v1/rank", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("POST", "/v1/rank", {"content": b"{}", "headers": {"content-type": "text/html"}}),
    ("POST", "/v1/rank", {"json": {}, "headers": {"accept": "image/png"}}),
    ("POST", "/v1/rank", {"json": {}, "headers": {"x-request-timeout": "never"}}),
    ("POST", "/v1/rank?top_k=2", {"content": np.eye(16, dtype="<f4")[:2].tobytes()}),
    ("POST", "/v1/score", {"json": {"context": CONTEXT, "candidates": [{"vector": CONTEXT[0]}]}}),
    ("POST", "/v1/order", {"json": {"a": CONTEXT[0], "b": CONTEXT[1]}}),
    ("POST", "/v1/sequence", {"json": {"chunks": CONTEXT}}),
    ("POST", "/v1/sequence", {"json": {"document_id": "nowhere"}}),
    ("GET", "/v1/rank", {}),
]


def _essence(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """What does not differ from one time to the next."""
    body = response.json()
    for one in (body, *body.get("answers", ())):
        one.pop("timings_ms", None)
    body.pop("request_id", None)
    moving = {"date", "x-request-id", "server-timing", "content-length"}
    headers = {name: text for name, text in response.headers.items() if name not in moving}
    return response.status_code, body, headers


@pytest.fixture(scope="module")
def both(data: Path, checkpoint: Path) -> Iterator[tuple[Live, Any]]:
    apps: list[Any] = []
    with live(data, checkpoint, prepare=apps.append) as running:
        yield running, apps[0]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked[0]} {asked[1]}")
def test_both_ways_answer_alike(
    both: tuple[Live, Any], monkeypatch: pytest.MonkeyPatch, asked: tuple[str, str, Any]
) -> None:
    running, app = both
    method, path, options = asked
    if "content" in options and "headers" not in options:
        options = {**options, "headers": {"content-type": "application/octet-stream"}}
    short = _essence(running.http.request(method, path, **options))
    monkeypatch.setattr(app, "direct", _Nothing())
    assert _essence(running.http.request(method, path, **options)) == short
