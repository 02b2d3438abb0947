"""Asks every question of ``docs/api.md`` again, in its order, and compares the answers' shape."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client

from .conftest import Live, live

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
JSON = r"```json\n(.*?)\n```\n"
QUESTION = re.compile(rf"`(POST|PUT|DELETE) (\S+)`\n\n{JSON}\n{JSON}|`(GET) (\S+)`\n\n{JSON}", re.S)
ASKED = [match.groups() for match in QUESTION.finditer(TEXT)]


@pytest.fixture(scope="module")
def own(data: Path, checkpoint: Path) -> Iterator[Live]:
    """A service of this file's own, for the page writes to it."""
    with live(data, checkpoint) as running:
        yield running


def _shape(value: Any) -> Any:
    """Keep members, lengths and kinds; of words and numbers, forget which."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(member) for member in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked[0] or 'GET'} {asked[1]}")
def test_a_question_has_the_printed_answer(own: Live, asked: tuple[str | None, ...]) -> None:
    method, path, question, answer, get, page, content = asked
    body = json.loads(question) if question else None
    found = own.http.request(method or get or "", path or page or "", json=body).json()
    printed = json.loads(answer or content or "")
    assert _shape(found) == _shape(printed)
    for member in ("code", "upserted", "deleted", "status", "mode"):
        assert found.get(member) == printed.get(member)


def test_all_questions_were_found() -> None:
    gets = sum(asked[4] is not None for asked in ASKED)
    assert (len(ASKED) - gets, gets) == (11, 6)
    assert TEXT.count("```json") == 2 * (len(ASKED) - gets) + gets


def test_the_client_example_runs(own: Live, capsys: pytest.CaptureFixture[str]) -> None:
    match = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert match
    code = match[1].replace("http://127.0.0.1:8000", own.url)
    names: dict[str, Any] = {"Client": Client}
    exec(code, names)
    assert len(names["answer"]["results"]) == 3
    assert 0 < names["probability"] < 1
    np.testing.assert_array_equal(names["vector"], np.eye(16, dtype=np.float32)[3])
    assert len(capsys.readouterr().out.split()) == 2
    assert own.http.get("/v1/stats").json()["store"]["chunks"] == 48


def test_bare_octets_as_on_the_page(own: Live) -> None:
    window = np.random.default_rng(1).normal(size=(5, 16)).astype("<f4")
    found = re.search(r"'http://127.0.0.1:8000(/v1/rank\S+)' -H 'content-type: (\S+)'", TEXT)
    assert found
    headers = {"content-type": found[2]}
    answer = own.http.post(found[1], content=window.tobytes(), headers=headers).json()
    assert (
        answer["results"] == own.ok("/v1/rank", {"context": window.tolist(), "top_k": 3})["results"]
    )
