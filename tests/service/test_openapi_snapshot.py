import json
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.openapi import EXAMPLES

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


def test_it_is_complete() -> None:
    document = json.loads(SNAPSHOT.read_text())
    schemas = document["components"]["schemas"]
    assert _references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], path
            assert ("requestBody" in operation) == (method == "post"), path
            if path.startswith("/v1"):
                content = operation["responses"]["422"]["content"]
                assert list(content) == ["application/problem+json"]


@pytest.mark.parametrize(
    ("path", "example"), [(path, one) for path, some in EXAMPLES.items() for one in some.values()]
)
def test_examples_are_understood(service: Live, path: str, example: dict[str, Any]) -> None:
    # Their ids and dimension are not this service's; anything else wrong would be found first.
    problem = service.post(f"/v1/{path}", example).json()
    assert problem["code"] in ("unknown_id", "wrong_dimension"), problem
