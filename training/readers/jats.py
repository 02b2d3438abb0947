"""Reader of JATS XML, in which journals publish: the body's paragraphs, section by section."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree

from training.chunking import ChunkingConfig
from training.raw import Chunk, InputError, RawDocument
from training.readers.text import one_document

# Neither these nor anything inside them is running text.
_SKIPPED = frozenset(
    {
        "alternatives",
        "annotation",
        "app-group",
        "attrib",
        "caption",
        "disp-formula",
        "disp-formula-group",
        "fig",
        "fig-group",
        "fn",
        "fn-group",
        "graphic",
        "inline-graphic",
        "label",
        "math",
        "media",
        "object-id",
        "ref-list",
        "sub-article",
        "supplementary-material",
        "table",
        "table-wrap",
        "table-wrap-group",
        "tex-math",
        "title",
    }
)
_PARAGRAPHS = frozenset({"p", "verse-group", "preformat"})
_CC_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)")


def read_jats(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Read the article of a file, or each article of a set.

    Tables, figures, formulas, footnotes and references are left out; the abstract stands in where
    there is no body. Entities are never expanded and nothing is fetched. The group is the DOI, so
    that an article stays in its split whatever it was read from.

    Args:
        path: A JATS file.
        doc_id: Name of the document; those of a set get ``#1``, ``#2`` and so on.
        chunking: Sizes of chunks.

    Raises:
        InputError: If the file is not well-formed, declares entities, or holds no article or text.
    """
    root = _parse(path)
    articles = [root] if _name(root) == "article" else root.findall(".//{*}article")
    if not articles:
        raise InputError(f"{path.name}: expected a JATS <article>, got <{_name(root)}>")
    for number, article in enumerate(articles, 1):
        name = doc_id if len(articles) == 1 else f"{doc_id}#{number}"
        body = _find(article, "body", "front//abstract")
        yield one_document(
            path,
            name,
            [] if body is None else list(_walk(body, ())),
            chunking,
            title=_text(_find(article, "front//title-group/article-title")),
            licence=_licence(_find(article, "front//permissions")),
            group=_text(_find(article, "front//article-id[@pub-id-type='doi']")) or None,
        )


def _parse(path: Path) -> Any:
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        tree: Any = etree.parse(str(path), parser)
    except etree.XMLSyntaxError as error:
        raise InputError(f"{path.name} line {error.lineno}: not XML: {error.msg}") from error
    declared = tree.docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise InputError(f"{path.name}: expected no entity declarations, got some")
    return tree.getroot()


def _walk(element: Any, sections: tuple[str, ...]) -> Iterator[Chunk]:
    """Paragraphs below an element, each with the titles of its sections."""
    for child in element:
        name = _name(child)
        if name in _SKIPPED or child.get("sec-type") == "supplementary-material":
            continue
        if name in _PARAGRAPHS:
            yield Chunk(text=_text(child), section=" > ".join(sections))
        elif name == "sec":
            title = _text(_find(child, "title"))
            yield from _walk(child, (*sections, title) if title else sections)
        else:
            yield from _walk(child, sections)


def _text(element: Any) -> str:
    """Running text of an element on one line; empty if there is none."""
    return "" if element is None else " ".join("".join(_pieces(element)).split())


def _pieces(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        name = _name(child)
        # An unresolved entity has no name of its own: a space keeps its neighbours apart.
        if not name:
            yield " "
        elif name not in _SKIPPED:
            yield from _pieces(child)
            if name in ("p", "list-item", "break"):
                yield " "
        yield child.tail or ""


def _licence(permissions: Any) -> str:
    """Short name of a Creative Commons licence, such as CC-BY-4.0; empty if it is not one."""
    if permissions is None:
        return ""
    content = etree.tostring(permissions, encoding="unicode")
    found = _CC_URL.search(content)
    if found is None:
        return "CC-BY" if "Creative Commons Attribution License" in content else ""
    kind, terms, version = found.groups()
    return f"CC0-{version}" if kind == "publicdomain" else f"CC-{terms.upper()}-{version}"


def _find(element: Any, *paths: str) -> Any:
    """The first element that one of the paths leads to, in any namespace; None if there is none."""
    for path in paths:
        found = element.find(re.sub(r"([a-z][a-z-]*)(?=[/\[]|$)", r"{*}\1", f"./{path}"))
        if found is not None:
            return found
    return None


def _name(element: Any) -> str:
    return etree.QName(element).localname if isinstance(element.tag, str) else ""
