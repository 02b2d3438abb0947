"""Asks every question of ``docs/api.md`` again, and compares the shape of the answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from service.client import Client

from .conftest import Live

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
JSON = r"```json\n(.*?)\n```\n"
POSTS = re.findall(rf"`POST (\S+)`\n\n{JSON}\n{JSON}", TEXT, re.DOTALL)
GETS = re.findall(rf"`GET (\S+)`\n\n{JSON}", TEXT, re.DOTALL)


def _shape(value: Any) -> Any:
    """Keep members, lengths and kinds; of words and numbers, forget which."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(member) for member in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.parametrize(("path", "question", "answer"), POSTS)
def test_a_question_has_the_printed_answer(
    service: Live, path: str, question: str, answer: str
) -> None:
    found = service.post(path, json.loads(question)).json()
    assert _shape(found) == _shape(json.loads(answer))
    assert found.get("code") == json.loads(answer).get("code")


@pytest.mark.parametrize(("path", "answer"), GETS)
def test_a_page_has_the_printed_shape(service: Live, path: str, answer: str) -> None:
    assert _shape(service.http.get(path).json()) == _shape(json.loads(answer))


def test_all_questions_were_found() -> None:
    assert (len(POSTS), len(GETS)) == (6, 4)
    assert TEXT.count("```json") == 2 * len(POSTS) + len(GETS)


def test_the_client_example_runs(service: Live) -> None:
    match = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert match
    code = match[1].replace("http://127.0.0.1:8000", service.url)
    names: dict[str, Any] = {"Client": Client}
    exec(code, names)
    assert len(names["answer"]["results"]) == 3
    assert 0 < names["probability"] < 1
