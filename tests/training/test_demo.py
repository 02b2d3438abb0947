import ast
from itertools import islice

import pytest

from training.demo import (
    MIN_CHUNKS,
    DemoError,
    demo_documents,
    docstring_paragraphs,
    package_documents,
    split_paragraphs,
)
from training.raw import RawDocument


@pytest.fixture(scope="module")
def corpus() -> list[RawDocument]:
    return list(demo_documents())


def test_size(corpus: list[RawDocument]):
    paragraphs = sum(len(document.chunks) for document in corpus)
    assert 6_000 < paragraphs < 16_000
    assert len(corpus) > 200
    assert min(len(document.chunks) for document in corpus) >= MIN_CHUNKS


def test_ids_are_unique_and_tests_are_left_out(corpus: list[RawDocument]):
    ids = [document.doc_id for document in corpus]
    assert len(set(ids)) == len(ids)
    assert {"topics/with", "stdlib/logging"} <= set(ids)
    assert not [name for name in ids if {"test", "tests", "idle_test"} & set(name.split("."))]


def test_same_every_time(corpus: list[RawDocument]):
    assert list(islice(demo_documents(), 80)) == corpus[:80]


def test_topics_alone(corpus: list[RawDocument]):
    topics = [document for document in corpus if document.source == "python-topics"]
    assert list(demo_documents(topics_alone=True)) == topics
    assert len(topics) > 20


def test_package():
    documents = list(package_documents("httpx"))
    assert "httpx/httpx._client" in [document.doc_id for document in documents]
    assert {document.source for document in documents} == {"httpx"}
    assert min(len(document.chunks) for document in documents) >= MIN_CHUNKS


@pytest.mark.parametrize("package", ["no_such_package", "not a name", "itertools"])
def test_missing_package(package: str):
    with pytest.raises(DemoError, match=f"packages: .*{package!r}"):
        next(demo_documents(packages=[package]))


def test_docstrings_in_source_order():
    source = '''
"""Module.

Second paragraph."""
class C:
    """A class."""
    def method(self):
        """Do it.

        >>> C().method()
        """
if True:
    async def late(): "Be late."
def bare(): pass
'''
    paragraphs = [(chunk.section, chunk.text) for chunk in docstring_paragraphs(ast.parse(source))]
    assert paragraphs == [
        ("", "Module."),
        ("", "Second paragraph."),
        ("C", "C: A class."),
        ("C", "C.method: Do it.\n>>> C().method()"),
        ("", "late: Be late."),
    ]


def test_code_stays_with_its_paragraph():
    text = "Title\n*****\n\nSo:\n\n   x = 1\n\n   y = 2\n\nThen\n\n   a definition\n\n>>> 1\n1"
    assert split_paragraphs(text) == [
        "Title",
        "So:\n   x = 1\n   y = 2",
        "Then",
        "a definition\n>>> 1\n1",
    ]
