"""Reader of HTML: the main text of a page, without menus, banners and comments."""

from collections.abc import Iterator
from pathlib import Path

import trafilatura
from lxml import etree
from trafilatura.settings import Document

from training.chunking import ChunkingConfig
from training.raw import Chunk, EmptyInputError, RawDocument
from training.readers.text import one_document

_TEXT = frozenset({"p", "item", "quote"})


def read_html(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Read one document; headings become sections, code stays with the paragraph before it.

    Args:
        path: An HTML file, in the encoding that it declares.
        doc_id: Name of the document.
        chunking: Sizes of chunks.

    Raises:
        EmptyInputError: If no main text is found.
    """
    content = path.read_bytes()
    document = trafilatura.bare_extraction(
        content,
        include_comments=False,
        include_tables=False,
        favor_recall=True,
        with_metadata=True,
    )
    if not isinstance(document, Document) or document.body is None:
        raise EmptyInputError(f"{path.name}: expected a page with main text, got none")
    yield one_document(
        path,
        doc_id,
        list(_paragraphs(document.body)),
        chunking,
        title=document.title or "",
        licence=document.license or "",
    )


def _paragraphs(body: etree._Element) -> Iterator[Chunk]:
    section = ""
    pending = ""
    for element in body.iter():
        tag = str(element.tag)
        text = " ".join(_content(element).split())
        if tag == "head":
            if pending:
                yield Chunk(text=pending, section=section)
            section, pending = text, ""
        elif tag == "code" and not _inside(element):
            pending += "\n" + _content(element).strip("\n")
        elif tag in _TEXT and not _inside(element):
            if pending:
                yield Chunk(text=pending, section=section)
            pending = text
    if pending:
        yield Chunk(text=pending, section=section)


def _content(element: etree._Element) -> str:
    return "".join(str(piece) for piece in element.itertext())


def _inside(element: etree._Element) -> bool:
    """Whether an element's text belongs to one that encloses it."""
    return any(str(ancestor.tag) in {*_TEXT, "code"} for ancestor in element.iterancestors())
