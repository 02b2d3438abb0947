import json
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.errors import error_classes
from service.examples import REQUESTS

from .conftest import Live

SNAPSHOT = Path(__file__).with_name("openapi.json")
UPDATE = "python -m service openapi --output tests/service/openapi.json"


def test_the_document_is_the_reviewed_one(
    service: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["openapi"]) == 0
    written = capsys.readouterr().out
    assert written == SNAPSHOT.read_text(), f"review the change, then run: {UPDATE}"
    assert service.http.get("/openapi.json").json() == json.loads(written)


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


DOCUMENT: dict[str, Any] = json.loads(SNAPSHOT.read_text())
OPERATIONS = [
    (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
BODIES = {
    "rank": ("POST", "/v1/rank"),
    "score": ("POST", "/v1/score"),
    "order": ("POST", "/v1/order"),
    "sequence": ("POST", "/v1/sequence"),
    "upsert": ("PUT", "/v1/chunks"),
    "delete": ("DELETE", "/v1/chunks"),
    "reload": ("POST", "/v1/model/reload"),
}


def test_it_is_complete() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert _references(DOCUMENT) <= {f"#/components/schemas/{name}" for name in schemas}
    assert len(OPERATIONS) == 18


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_every_operation_and_problem_has_an_example(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    assert operation["description"]
    kind = "text/plain" if path == "/metrics" else "application/json"
    assert operation["responses"]["200"]["content"][kind]["example"]
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            examples = response["content"]["application/problem+json"]["examples"]
            for code, example in examples.items():
                problem = example["value"]
                assert (problem["code"], problem["status"]) == (code, int(status))
    if path.startswith("/v1"):
        assert {"401", "403", "422", "429", "500", "503"} <= operation["responses"].keys()
        assert operation["security"]


def test_every_code_is_shown_somewhere() -> None:
    shown = {
        code
        for _, _, operation in OPERATIONS
        for response in operation["responses"].values()
        for code in response.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
    }
    # What belongs to no operation: other paths, other methods, and the client's own.
    apart = {"method_not_allowed", "unreachable"}
    assert shown == {kind.code for kind in error_classes()} - apart


@pytest.mark.parametrize(
    ("name", "example"), [(name, one) for name, some in REQUESTS.items() for one in some.values()]
)
def test_examples_are_understood(service: Live, name: str, example: dict[str, Any]) -> None:
    # Their ids and dimension are not this service's; anything else wrong would be found first.
    method, path = BODIES[name]
    response = service.http.request(method, path, json=example)
    known = ("unknown_id", "wrong_dimension", "document_not_found", "embedder_unavailable")
    if name == "delete":
        assert response.json()["deleted"] == 0
    elif name == "reload":
        assert response.status_code == 200 or response.json()["code"] == "checkpoint_rejected"
    else:
        assert response.json()["code"] in known, response.json()
